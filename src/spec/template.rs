//! A text in which a run's variables stand, as in psql: `:interval_start`; `::` is a colon.

use super::file::nearest;
use super::scalar::Scalar;
use super::script::{VARIABLES, Variable};
use crate::error::Result;

/// A text with variables.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Template(Vec<Part>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    Variable(Variable),
}

impl Template {
    /// The text, with what each variable stands for.
    pub fn filled(&self, value: impl Fn(Variable) -> String) -> String {
        let part = |part: &Part| match part {
            Part::Text(text) => text.clone(),
            Part::Variable(variable) => value(*variable),
        };
        self.0.iter().map(part).collect()
    }
}

impl Scalar for Template {
    const REMEDY: &'static str =
        "write :interval_start, :interval_end, :ds or :prev_ds, and :: for a colon";

    fn read(text: &str) -> Result<Template, String> {
        let (mut parts, mut plain, mut rest) = (Vec::new(), String::new(), text);
        while let Some((before, behind)) = rest.split_once(':') {
            plain.push_str(before);
            if let Some(behind) = behind.strip_prefix(':') {
                plain.push(':');
                rest = behind;
                continue;
            }
            let end = behind.find(|c: char| !c.is_ascii_alphanumeric() && c != '_');
            let (name, behind) =
                behind.split_at_checked(end.unwrap_or(behind.len())).unwrap_or((behind, ""));
            let Some((_, variable)) = VARIABLES.iter().find(|(known, _)| *known == name) else {
                let names = VARIABLES.map(|(known, _)| known);
                return Err(match nearest(name, &names) {
                    Some(near) if !name.is_empty() => {
                        format!("there is no variable :{name}, but :{near}")
                    }
                    _ => format!("there is no variable :{name}"),
                });
            };
            if !plain.is_empty() {
                parts.push(Part::Text(std::mem::take(&mut plain)));
            }
            parts.push(Part::Variable(*variable));
            rest = behind;
        }
        plain.push_str(rest);
        if !plain.is_empty() {
            parts.push(Part::Text(plain));
        }
        Ok(Template(parts))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_stand_anywhere_and_two_colons_are_one() {
        let filled = |text: &str| {
            Template::read(text)
                .map(|template| template.filled(|variable| format!("<{variable:?}>")))
        };
        assert_eq!(filled(":interval_start").as_deref(), Ok("<IntervalStart>"));
        assert_eq!(filled("ge::12::30,:ds.json").as_deref(), Ok("ge:12:30,<Ds>.json"));
        assert_eq!(filled("plain").as_deref(), Ok("plain"));
        assert_eq!(filled("").as_deref(), Ok(""));
        assert!(filled(":intervall_start").unwrap_err().contains(":interval_start"));
        assert!(filled("12:30").is_err() && filled("a:").is_err());
    }
}
