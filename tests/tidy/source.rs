//! A Rust file as the rules read it: code with comments and string contents blanked out, and the
//! string literals apart. A scanner of tokens, not a parser: enough to tell the three from each other.

use std::ops::Range;

/// One of our files.
pub(super) struct Source {
    /// Its path from the root of the tree, such as `src/merge/apply.rs`.
    pub(super) path: String,
    pub(super) text: String,
    /// The text without comments, contents of literals and `#[cfg(test)]` items: each a blank, so that
    /// offsets and lines are those of the text.
    pub(super) code: String,
    /// The string literals outside `#[cfg(test)]` items, in their order.
    pub(super) literals: Vec<Literal>,
    tests: Vec<Range<usize>>,
}

/// A string literal.
pub(super) struct Literal {
    /// Where its opening quote (or `r`, `b`) is.
    pub(super) at: usize,
    /// Its content; an escaped quote reads as the quote.
    pub(super) value: String,
}

impl Source {
    pub(super) fn new(path: &str, text: &str) -> Source {
        let mut scanner = Scanner { text, at: 0, code: Vec::new(), literals: Vec::new() };
        scanner.scan();
        let Scanner { code, mut literals, .. } = scanner;
        let mut code = String::from_utf8(code).expect("blanks replace whole characters");
        let tests = test_items(&code);
        for range in &tests {
            let blank = blanked(&code[range.clone()]);
            code.replace_range(range.clone(), &blank);
        }
        literals.retain(|literal| !tests.iter().any(|range| range.contains(&literal.at)));
        Source { path: path.to_owned(), text: text.to_owned(), code, literals, tests }
    }

    /// The line of an offset, counted from 1.
    pub(super) fn line(&self, at: usize) -> usize {
        1 + self.text[..at].matches('\n').count()
    }

    /// Its lines, those of `#[cfg(test)]` items apart.
    pub(super) fn lines(&self) -> usize {
        let tests = self.tests.iter().map(|range| self.text[range.clone()].lines().count());
        self.text.lines().count() - tests.sum::<usize>()
    }

    /// Where the code has `word` as a whole identifier.
    pub(super) fn words<'s>(&'s self, word: &'s str) -> impl Iterator<Item = usize> + 's {
        words(&self.code, word)
    }

    /// The name of the module in `src/` that the file belongs to; `lib` and `main` for themselves.
    pub(super) fn module(&self) -> &str {
        let inside = self.path.strip_prefix("src/").unwrap_or(&self.path);
        inside.split('/').next().unwrap_or_default().trim_end_matches(".rs")
    }

    /// How many modules the file lies below the crate's root.
    pub(super) fn depth(&self) -> usize {
        let inside = self.path.strip_prefix("src/").unwrap_or(&self.path);
        inside.split('/').filter(|part| *part != "mod.rs").count()
    }
}

/// Where `text` has `word` as a whole identifier.
pub(super) fn words<'t>(text: &'t str, word: &'t str) -> impl Iterator<Item = usize> + 't {
    text.match_indices(word).map(|(at, _)| at).filter(move |at| {
        let part = |c: char| c.is_alphanumeric() || c == '_';
        !text[..*at].ends_with(part) && !text[at + word.len()..].starts_with(part)
    })
}

/// The end of the item whose first brace opens behind `from`: behind its closing brace, or behind the
/// semicolon of an item without a body.
pub(super) fn end_of_item(code: &str, from: usize) -> usize {
    let (mut braces, mut others) = (0, 0);
    for (at, c) in code[from..].char_indices() {
        match c {
            '{' => braces += 1,
            '(' | '[' => others += 1,
            ')' | ']' => others -= 1,
            '}' => braces -= 1,
            _ => {}
        }
        if (c == '}' && braces == 0) || (c == ';' && braces == 0 && others == 0) {
            return from + at + 1;
        }
    }
    code.len()
}

fn test_items(code: &str) -> Vec<Range<usize>> {
    let mut items: Vec<Range<usize>> = Vec::new();
    for (at, attribute) in code.match_indices("#[cfg(test)]") {
        if items.last().is_none_or(|last| at >= last.end) {
            items.push(at..end_of_item(code, at + attribute.len()));
        }
    }
    items
}

fn blanked(text: &str) -> String {
    text.bytes().map(|byte| if byte == b'\n' { '\n' } else { ' ' }).collect()
}

struct Scanner<'t> {
    text: &'t str,
    at: usize,
    code: Vec<u8>,
    literals: Vec<Literal>,
}

impl Scanner<'_> {
    fn scan(&mut self) {
        while let Some(c) = self.text[self.at..].chars().next() {
            let rest = &self.text[self.at..];
            let in_word = self.text[..self.at].ends_with(|c: char| c.is_alphanumeric() || c == '_');
            if rest.starts_with("//") {
                self.blank(rest.find('\n').unwrap_or(rest.len()));
            } else if rest.starts_with("/*") {
                self.blank(block_comment(rest));
            } else if let Some(hashes) = raw_string(rest).filter(|_| !in_word) {
                let open = rest.find('"').unwrap_or_default() + 1;
                let close = format!("\"{}", "#".repeat(hashes));
                let length = rest[open..].find(&close).unwrap_or(rest.len() - open);
                self.literal(open, length, close.len());
            } else if c == '"' {
                let length = quoted(&rest[1..]);
                self.literal(1, length, 1);
            } else if c == '\'' {
                self.blank(character(rest));
            } else {
                self.keep(c.len_utf8());
            }
        }
    }

    fn literal(&mut self, open: usize, length: usize, close: usize) {
        let value = &self.text[self.at + open..][..length];
        let value = if open == 1 { value.replace("\\\"", "\"") } else { value.to_owned() };
        self.literals.push(Literal { at: self.at, value });
        self.keep(open);
        self.blank(length);
        self.keep(close.min(self.text.len() - self.at));
    }

    fn keep(&mut self, length: usize) {
        self.code.extend_from_slice(&self.text.as_bytes()[self.at..][..length]);
        self.at += length;
    }

    fn blank(&mut self, length: usize) {
        self.code.extend(blanked(&self.text[self.at..][..length]).into_bytes());
        self.at += length;
    }
}

/// The number of hashes of the raw string that starts here.
fn raw_string(rest: &str) -> Option<usize> {
    let rest = rest.trim_start_matches(['b', 'c']).strip_prefix('r')?;
    let behind = rest.trim_start_matches('#');
    behind.starts_with('"').then(|| rest.len() - behind.len())
}

/// The length of a string's content, up to its closing quote.
fn quoted(rest: &str) -> usize {
    let mut escaped = false;
    let close = rest.find(|c| {
        let closes = c == '"' && !escaped;
        escaped = c == '\\' && !escaped;
        closes
    });
    close.unwrap_or(rest.len())
}

/// The length of a character literal; of a lifetime only its tick.
fn character(rest: &str) -> usize {
    let mut chars = rest.char_indices().skip(1);
    match chars.next() {
        // the escaped character itself may be a tick
        Some((_, '\\')) => rest[3..].find('\'').map_or(rest.len(), |at| at + 4),
        Some(_) => match chars.next() {
            Some((at, '\'')) => at + 1,
            _ => 1,
        },
        None => 1,
    }
}

fn block_comment(rest: &str) -> usize {
    let mut depth = 0;
    let mut at = 0;
    while at < rest.len() {
        match rest.as_bytes().get(at..at + 2) {
            Some(b"/*") => (depth, at) = (depth + 1, at + 2),
            Some(b"*/") => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            return at;
        }
    }
    rest.len()
}

#[test]
fn comments_and_strings_are_no_code() {
    let text = "let a = 'b'; // crate::x\nlet s: &'a str = \"crate::y \\\" {\"; /* { /* */ } */\n\
                let r = r#\"a \" b\"#; let q = '\\''; let e = '\"';\n";
    let source = Source::new("src/a.rs", text);
    assert_eq!(source.code.len(), text.len());
    for gone in ["crate", "{", "}"] {
        assert!(!source.code.contains(gone), "{gone} in {}", source.code);
    }
    let values: Vec<&str> = source.literals.iter().map(|literal| literal.value.as_str()).collect();
    assert_eq!(values, ["crate::y \" {", "a \" b"]);
    assert!(source.code.contains("let e ="));
}

#[test]
fn a_test_item_is_apart() {
    let text = "fn a() {}\n#[cfg(test)]\nmod tests {\n    fn b() { \"x\"; }\n}\nfn c() {}\n";
    let source = Source::new("src/a.rs", text);
    assert!(!source.code.contains("fn b") && source.code.contains("fn c"));
    assert!(source.literals.is_empty());
    assert_eq!(source.lines(), 2);
}
