//! Which of a server's tools the user wants: `toolFilter`.
//!
//! Source: mcp-tool-filter.ts at 2026.9.6. Exact names, or with `*` for anything; case counts.

use serde_json::Value;

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    include: Vec<String>,
    exclude: Vec<String>,
}

impl Filter {
    /// From `{include, exclude}`.
    pub fn read(filter: &Value) -> Self {
        let list = |key: &str| {
            let names = filter[key].as_array().into_iter().flatten();
            names
                .filter_map(Value::as_str)
                .map(|name| name.trim().to_owned())
                .filter(|name| !name.is_empty())
                .collect()
        };
        Self {
            include: list("include"),
            exclude: list("exclude"),
        }
    }

    pub fn allows(&self, tool: &str) -> bool {
        let covers = |names: &[String]| {
            names
                .iter()
                .any(|name| is_like(tool.as_bytes(), name.as_bytes()))
        };
        (self.include.is_empty() || covers(&self.include)) && !covers(&self.exclude)
    }
}

fn is_like(name: &[u8], pattern: &[u8]) -> bool {
    let (mut at, mut of) = (0, 0);
    // Where the last `*` was, and how much of the name it stands for so far.
    let mut star = None;
    while at < name.len() {
        match pattern.get(of) {
            Some(b'*') => {
                star = Some((of, at));
                of += 1;
            }
            Some(byte) if *byte == name[at] => {
                at += 1;
                of += 1;
            }
            _ => match star {
                Some((before, until)) => {
                    star = Some((before, until + 1));
                    at = until + 1;
                    of = before + 1;
                }
                None => return false,
            },
        }
    }
    pattern[of..].iter().all(|byte| *byte == b'*')
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn include_narrows_and_exclude_wins() {
        let check = |filter: Value, tool: &str, expected: bool| {
            assert_eq!(
                Filter::read(&filter).allows(tool),
                expected,
                "{filter} {tool}"
            );
        };
        check(json!(null), "any", true);
        check(json!({ "include": [] }), "any", true);
        check(json!({ "include": ["read_*", "x"] }), "read_file", true);
        check(json!({ "include": ["read_*", "x"] }), "Read_file", false);
        check(json!({ "include": ["*a*b*"] }), "xxaxxbxx", true);
        check(json!({ "include": ["*a*b"] }), "xxbxxa", false);
        check(
            json!({ "include": ["*"], "exclude": ["*_admin"] }),
            "the_admin",
            false,
        );
        check(json!({ "exclude": ["*_admin"] }), "admin", true);
    }
}
