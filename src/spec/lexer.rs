//! The tokens of a script: words, variables, and what ends a statement; all else is as it is written. Pure.

use std::ops::Range;

use super::script::{Flaw, VARIABLES, Variable};

/// What the lexer found: where it stands, and what it is.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Token {
    Word,
    Variable(Variable),
    Semicolon,
    Open,
    Close,
    /// text, comments aside: quotes, numbers, operators
    Other,
    Comment,
}

/// How much deeper a token leads into parentheses.
pub(super) fn depth(token: &Token) -> i64 {
    match token {
        Token::Open => 1,
        Token::Close => -1,
        _ => 0,
    }
}

/// Reads a script token by token.
pub(super) struct Lexer<'t> {
    text: &'t str,
    at: usize,
}

impl Lexer<'_> {
    /// At the begin of a text.
    pub(super) fn new(text: &str) -> Lexer<'_> {
        Lexer { text, at: 0 }
    }

    fn rest(&self) -> &str {
        self.text.get(self.at..).unwrap_or_default()
    }

    /// What is wrong at a place.
    pub(super) fn flaw(
        &self,
        at: usize,
        why: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Flaw {
        let before = self.text.get(..at).unwrap_or_default();
        let line = before.matches('\n').count() + 1;
        Flaw { line, why: why.into(), remedy: remedy.into() }
    }

    /// The next token and its place; none at the end.
    pub(super) fn next(&mut self) -> Result<Option<(Token, Range<usize>)>, Flaw> {
        let skipped = self.rest().len() - self.rest().trim_start().len();
        self.at += skipped;
        let from = self.at;
        let Some(first) = self.rest().chars().next() else { return Ok(None) };
        let token = match first {
            '-' if self.rest().starts_with("--") => {
                self.at += self.rest().find('\n').unwrap_or(self.rest().len());
                Token::Comment
            }
            '/' if self.rest().starts_with("/*") => self.comment()?,
            '\'' => self.quoted('\'', false)?,
            '"' => self.quoted('"', false)?,
            '$' => self.dollar()?,
            ':' => self.colon()?,
            '\\' => {
                let remedy = "write SQL only: psql's own commands are not run here";
                return Err(self.flaw(from, "a command of psql", remedy));
            }
            '(' => self.one(Token::Open),
            ')' => self.one(Token::Close),
            ';' => self.one(Token::Semicolon),
            first if is_word(first) && !first.is_ascii_digit() => self.word()?,
            // a number, with what is glued to it
            first if first.is_ascii_digit() => {
                let end = self.rest().find(|c: char| !is_word(c) && c != '.');
                self.at += end.unwrap_or(self.rest().len());
                Token::Other
            }
            first => {
                self.at += first.len_utf8();
                Token::Other
            }
        };
        Ok(Some((token, from..self.at)))
    }

    fn one(&mut self, token: Token) -> Token {
        self.at += 1;
        token
    }

    /// A comment, which may hold others.
    fn comment(&mut self) -> Result<Token, Flaw> {
        let (from, mut depth) = (self.at, 0_u32);
        loop {
            if self.rest().starts_with("/*") {
                depth += 1;
                self.at += 2;
            } else if self.rest().starts_with("*/") {
                depth -= 1;
                self.at += 2;
                if depth == 0 {
                    return Ok(Token::Comment);
                }
            } else if let Some(next) = self.rest().chars().next() {
                self.at += next.len_utf8();
            } else {
                return Err(self.flaw(from, "a comment that does not end", "end it by */"));
            }
        }
    }

    /// A quoted text or name; doubled quotes belong to it, and escapes by backslashes where it has any.
    fn quoted(&mut self, quote: char, escapes: bool) -> Result<Token, Flaw> {
        let from = self.at;
        self.at += 1;
        // one that goes on in a later line goes on with its escapes
        loop {
            self.segment(from, (quote, escapes))?;
            match self.continuation().filter(|_| escapes) {
                Some(opening) => self.at = opening + 1,
                None => return Ok(Token::Other),
            }
        }
    }

    /// Where the next part of a quoted text opens: behind a line's end, and nothing but space and comments of
    /// a line.
    fn continuation(&self) -> Option<usize> {
        let (mut rest, mut lines) = (self.rest(), false);
        loop {
            let behind = rest.trim_start();
            let space = rest.get(..rest.len() - behind.len()).unwrap_or_default();
            lines |= space.contains('\n');
            if !behind.starts_with("--") {
                return (lines && behind.starts_with('\'')).then(|| self.text.len() - behind.len());
            }
            rest = behind.get(behind.find('\n')?..)?;
        }
    }

    /// A quoted text up to its closing quote.
    fn segment(&mut self, from: usize, (quote, escapes): (char, bool)) -> Result<(), Flaw> {
        while let Some(next) = self.rest().chars().next() {
            self.at += next.len_utf8();
            if next == '\\' && escapes {
                self.at += self.rest().chars().next().map_or(0, char::len_utf8);
            } else if next == quote {
                if !self.rest().starts_with(quote) {
                    return Ok(());
                }
                self.at += 1;
            }
        }
        Err(self.flaw(from, "a quote that does not end", format!("end it by {quote}")))
    }

    /// `$tag$ … $tag$`.
    fn dollar(&mut self) -> Result<Token, Flaw> {
        let from = self.at;
        let behind = self.rest().get(1..).unwrap_or_default();
        if behind.starts_with(|c: char| c.is_ascii_digit()) {
            let remedy = "write the value, or a variable such as :'ds'";
            return Err(self.flaw(from, "a parameter without a value", remedy));
        }
        let length = behind.find(|c: char| !is_word(c)).unwrap_or(behind.len());
        if !behind.get(length..).unwrap_or_default().starts_with('$') {
            self.at += 1;
            return Ok(Token::Other);
        }
        let tag = self.rest().get(..length + 2).unwrap_or_default().to_owned();
        let inside = self.rest().get(tag.len()..).unwrap_or_default();
        let Some(end) = inside.find(&tag) else {
            return Err(self.flaw(from, "a quote that does not end", format!("end it by {tag}")));
        };
        self.at += tag.len() + end + tag.len();
        Ok(Token::Other)
    }

    fn word(&mut self) -> Result<Token, Flaw> {
        let end = self.rest().find(|c: char| !is_word(c) && c != '$');
        let end = end.unwrap_or(self.rest().len());
        let word = self.rest().get(..end).unwrap_or_default().to_ascii_lowercase();
        self.at += end;
        // `E'…'` has escapes; `U&'…'`, `B'…'` and `X'…'` have none
        if word == "e" && self.rest().starts_with('\'') {
            return self.quoted('\'', true);
        }
        Ok(Token::Word)
    }

    /// A cast, an assignment, a slice, or a variable.
    fn colon(&mut self) -> Result<Token, Flaw> {
        let from = self.at;
        let behind = self.rest().get(1..).unwrap_or_default();
        if behind.starts_with([':', '=']) {
            self.at += 2;
            return Ok(Token::Other);
        }
        let quote = behind.chars().next().filter(|c| matches!(c, '\'' | '"'));
        let name = behind.strip_prefix(['\'', '"']).unwrap_or(behind);
        let name = name.get(..name.find(|c: char| !is_word(c)).unwrap_or(name.len()));
        let name = name.unwrap_or_default().to_owned();
        let known = VARIABLES.iter().find(|(known, _)| *known == name);
        let closed = quote.is_some_and(|quote| {
            behind.get(1 + name.len()..).unwrap_or_default().starts_with(quote)
        });
        match (known, quote) {
            (Some((_, variable)), Some('\'')) if closed => {
                self.at += name.len() + 3;
                Ok(Token::Variable(*variable))
            }
            (Some(_), _) => {
                let why = format!(":{name} is put in without quotes in psql");
                Err(self.flaw(from, why, format!("write :'{name}'")))
            }
            (None, Some('\'')) if closed && !name.is_empty() => {
                let names: Vec<_> =
                    VARIABLES.iter().map(|(name, _)| format!(":'{name}'")).collect();
                let why = format!("there is no variable {name}");
                Err(self.flaw(from, why, format!("write one of {}", names.join(", "))))
            }
            _ => {
                self.at += 1;
                Ok(Token::Other)
            }
        }
    }
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}
