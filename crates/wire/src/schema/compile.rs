//! From a JSON schema to nodes that can be walked quickly.

use serde_json::Value;

/// A compiled schema.
#[derive(Debug)]
pub struct Schema(pub(super) Node);

/// One schema object. Keywords that the tables do not use are refused by [`Schema::compile`].
#[derive(Debug, Default)]
pub(super) struct Node {
    /// `false` as a schema: nothing is valid.
    pub never: bool,
    pub kind: Option<Kind>,
    pub required: Vec<String>,
    pub properties: Vec<(String, Node)>,
    pub pattern_properties: Vec<(Pattern, Node)>,
    pub additional: Option<Box<Node>>,
    pub properties_min: Option<usize>,
    pub properties_max: Option<usize>,
    pub items: Option<Box<Node>>,
    pub items_min: Option<usize>,
    pub items_max: Option<usize>,
    pub unique_items: bool,
    pub length_min: Option<usize>,
    pub length_max: Option<usize>,
    pub pattern: Option<Pattern>,
    pub minimum: Option<Limit>,
    pub maximum: Option<Limit>,
    pub constant: Option<Value>,
    pub options: Option<Vec<Value>>,
    pub not: Option<Box<Node>>,
    pub all_of: Vec<Node>,
    pub any_of: Vec<Node>,
    pub one_of: Vec<Node>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Object,
    Array,
    String,
    Number,
    Integer,
    Boolean,
    Null,
}

impl Kind {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Object => "object",
            Self::Array => "array",
            Self::String => "string",
            Self::Number => "number",
            Self::Integer => "integer",
            Self::Boolean => "boolean",
            Self::Null => "null",
        }
    }
}

/// A numeric bound and how the schema writes it.
#[derive(Debug)]
pub(super) struct Limit {
    pub value: f64,
    pub text: String,
}

/// A regular expression of the schemas, known by its text.
#[derive(Debug)]
pub(super) struct Pattern {
    pub text: String,
    matches: fn(&str) -> bool,
}

impl Pattern {
    fn new(text: &str) -> Option<Self> {
        PATTERNS
            .iter()
            .find(|(known, _)| *known == text)
            .map(|(known, matches)| Self {
                text: (*known).to_owned(),
                matches: *matches,
            })
    }

    pub(super) fn matches(&self, text: &str) -> bool {
        (self.matches)(text)
    }
}

/// The few expressions that the schemas hold, so that no regular expression engine is needed.
type Known = (&'static str, fn(&str) -> bool);

const PATTERNS: &[Known] = &[
    // `.` stops at line ends, so a key with one does not match.
    ("^.*$", |text| !has_line_end(text)),
    ("^.{1,256}$", |text| {
        !has_line_end(text) && (1..=256).contains(&text.chars().count())
    }),
    // JavaScript's white space: U+FEFF is, U+0085 is not.
    ("\\S", |text| {
        text.chars()
            .any(|c| c == '\u{85}' || !(c.is_whitespace() || c == '\u{feff}'))
    }),
    ("^[^/\\\\]+$", |text| {
        !text.is_empty() && !text.contains(['/', '\\'])
    }),
    ("^[A-Za-z0-9_./\\[\\]\\-*]+$", |text| {
        !text.is_empty()
            && text
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"_./[]-*".contains(&b))
    }),
    (
        "^(?!\\.{1,2}$)(?:[^\\uD800-\\uDFFF]|[\\uD800-\\uDBFF][\\uDC00-\\uDFFF])+$",
        |text| !matches!(text, "" | "." | ".."),
    ),
    ("^[a-z0-9][a-z0-9-]{0,63}$", |text| {
        (1..=64).contains(&text.len())
            && !text.starts_with('-')
            && text
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
    }),
    ("^\\d{4}-\\d{2}-\\d{2}$", |text| {
        let bytes = text.as_bytes();
        bytes.len() == 10
            && bytes.iter().enumerate().all(|(at, b)| match at {
                4 | 7 => *b == b'-',
                _ => b.is_ascii_digit(),
            })
    }),
    ("^UTC[+-]\\d{1,2}(?::[0-5]\\d)?$", |text| {
        let Some(rest) = text
            .strip_prefix("UTC+")
            .or_else(|| text.strip_prefix("UTC-"))
        else {
            return false;
        };
        let (hours, minutes) = match rest.split_once(':') {
            Some((hours, minutes)) => (hours, Some(minutes.as_bytes())),
            None => (rest, None),
        };
        (1..=2).contains(&hours.len())
            && hours.bytes().all(|b| b.is_ascii_digit())
            && minutes.is_none_or(|minutes| {
                matches!(minutes, [tens, ones] if (b'0'..=b'5').contains(tens) && ones.is_ascii_digit())
            })
    }),
];

const LINE_ENDS: [char; 4] = ['\n', '\r', '\u{2028}', '\u{2029}'];

fn has_line_end(text: &str) -> bool {
    text.contains(LINE_ENDS)
}

impl Schema {
    /// Compiles one line of the embedded table.
    ///
    /// # Panics
    /// On a keyword or pattern that the engine does not know: the table is part of the build, and a test
    /// compiles every line of it.
    pub(super) fn compile(method: &str, text: &str) -> Self {
        let schema: Value = serde_json::from_str(text)
            .unwrap_or_else(|error| panic!("schema of {method}: {error}"));
        Self(node(&schema).unwrap_or_else(|what| panic!("schema of {method}: unknown {what}")))
    }
}

fn node(schema: &Value) -> Result<Node, String> {
    let mut out = Node::default();
    let fields = match schema {
        Value::Bool(valid) => {
            out.never = !valid;
            return Ok(out);
        }
        Value::Object(fields) => fields,
        other => return Err(other.to_string()),
    };
    for (keyword, value) in fields {
        let count = || value.as_u64().and_then(|limit| usize::try_from(limit).ok());
        match keyword.as_str() {
            "type" => out.kind = Some(kind(value)?),
            "required" => {
                out.required = serde_json::from_value(value.clone()).map_err(|e| e.to_string())?;
            }
            "properties" => {
                for (name, schema) in value.as_object().into_iter().flatten() {
                    out.properties.push((name.clone(), node(schema)?));
                }
            }
            "patternProperties" => {
                for (name, schema) in value.as_object().into_iter().flatten() {
                    let pattern = Pattern::new(name).ok_or_else(|| name.clone())?;
                    out.pattern_properties.push((pattern, node(schema)?));
                }
            }
            "additionalProperties" => out.additional = Some(Box::new(node(value)?)),
            "minProperties" => out.properties_min = count(),
            "maxProperties" => out.properties_max = count(),
            "items" => out.items = Some(Box::new(node(value)?)),
            "minItems" => out.items_min = count(),
            "maxItems" => out.items_max = count(),
            "uniqueItems" => out.unique_items = value == &Value::Bool(true),
            "minLength" => out.length_min = count(),
            "maxLength" => out.length_max = count(),
            "pattern" => {
                let text = value.as_str().unwrap_or_default();
                out.pattern = Some(Pattern::new(text).ok_or_else(|| text.to_owned())?);
            }
            "minimum" => out.minimum = Some(limit(value)?),
            "maximum" => out.maximum = Some(limit(value)?),
            "const" => out.constant = Some(value.clone()),
            "enum" => out.options = value.as_array().cloned(),
            "not" => out.not = Some(Box::new(node(value)?)),
            "allOf" => out.all_of = nodes(value)?,
            "anyOf" => out.any_of = nodes(value)?,
            "oneOf" => out.one_of = nodes(value)?,
            other => return Err(other.to_owned()),
        }
    }
    Ok(out)
}

fn nodes(schemas: &Value) -> Result<Vec<Node>, String> {
    schemas.as_array().into_iter().flatten().map(node).collect()
}

fn limit(value: &Value) -> Result<Limit, String> {
    let number = value.as_f64().ok_or_else(|| value.to_string())?;
    Ok(Limit {
        value: number,
        text: value.to_string(),
    })
}

fn kind(value: &Value) -> Result<Kind, String> {
    Ok(match value.as_str() {
        Some("object") => Kind::Object,
        Some("array") => Kind::Array,
        Some("string") => Kind::String,
        Some("number") => Kind::Number,
        Some("integer") => Kind::Integer,
        Some("boolean") => Kind::Boolean,
        Some("null") => Kind::Null,
        _ => return Err(format!("type {value}")),
    })
}
