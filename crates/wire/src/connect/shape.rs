//! Closed JSON shapes and the error text a 2026.9.6 gateway gives for a value that does not fit.
//!
//! The gateway validates with TypeBox 1.3.30 and formats the errors itself; clients read that text, so the order of
//! the checks, the limit of eight raw errors and the joining are reproduced here, not only the verdict.

use serde_json::{Map, Value};

/// Raw errors kept per value. Source: `settings.maxErrors` of typebox 1.3.30.
const RAW_ERRORS_MAX: usize = 8;

/// What a value must look like. Shapes are `const` data, so a whole contract reads as one table.
#[derive(Debug, Clone, Copy)]
pub enum Shape {
    /// Anything, even `null`.
    Any,
    Bool,
    /// A number without a fraction, however large.
    Integer {
        min: f64,
        max: f64,
    },
    /// Lengths count what a reader sees as one character (see [`graphemes`]).
    Text {
        min: usize,
        max: usize,
        pattern: Option<Pattern>,
    },
    OneOf(&'static [&'static str]),
    List {
        items: &'static Shape,
        min: usize,
        max: usize,
        unique: bool,
    },
    /// Any keys, one shape for the values. A key with a line break in it is not looked at, as in the original.
    Record(&'static Shape),
    /// Exactly these keys.
    Object(&'static [Field]),
    AnyOf(&'static [Shape]),
}

/// One key of [`Shape::Object`].
#[derive(Debug, Clone, Copy)]
pub struct Field {
    pub name: &'static str,
    pub shape: Shape,
    pub required: bool,
}

/// A pattern as the client sees it in the message, and the code that decides.
#[derive(Debug, Clone, Copy)]
pub struct Pattern {
    pub source: &'static str,
    pub matches: fn(&str) -> bool,
}

impl Shape {
    pub const TEXT: Self = Self::Text {
        min: 0,
        max: usize::MAX,
        pattern: None,
    };
    pub const NON_EMPTY: Self = Self::Text {
        min: 1,
        max: usize::MAX,
        pattern: None,
    };
    pub const NON_EMPTY_LIST: Self = Self::List {
        items: &Self::NON_EMPTY,
        min: 0,
        max: usize::MAX,
        unique: false,
    };

    pub const fn integer_from(min: f64) -> Self {
        Self::Integer {
            min,
            max: f64::INFINITY,
        }
    }

    pub const fn text(min: usize, max: usize) -> Self {
        Self::Text {
            min,
            max,
            pattern: None,
        }
    }

    /// `Err` holds the text that follows `invalid <what> params: `.
    pub fn check(&self, value: &Value) -> Result<(), String> {
        let mut found = Found::default();
        if self.visit(value, "", &mut found) {
            Ok(())
        } else {
            Err(format(found.0))
        }
    }

    // Source of the order: `ErrorSchema` in typebox 1.3.30 build/schema/engine/schema.mjs.
    fn visit(&self, value: &Value, path: &str, found: &mut Found) -> bool {
        if found.full() {
            return false;
        }
        match self {
            Self::Any => true,
            Self::Bool => value.is_boolean() || found.add(path, "must be boolean"),
            Self::Integer { min, max } => integer(value, *min, *max, path, found),
            Self::Text { min, max, pattern } => text(value, *min, *max, *pattern, path, found),
            Self::OneOf(allowed) => {
                value.as_str().is_some_and(|text| allowed.contains(&text))
                    || found.add(path, "must be equal to one of the allowed values")
            }
            Self::List {
                items,
                min,
                max,
                unique,
            } => {
                let Value::Array(entries) = value else {
                    return found.add(path, "must be array");
                };
                list(entries, items, (*min, *max), *unique, path, found)
            }
            Self::Record(values) => {
                let Value::Object(map) = value else {
                    return found.add(path, "must be object");
                };
                every(keys(map).filter(|key| !has_line_break(key)), |key| {
                    values.visit(&map[key], &format!("{path}/{key}"), found)
                })
            }
            Self::Object(fields) => {
                let Value::Object(map) = value else {
                    return found.add(path, "must be object");
                };
                object(map, fields, path, found)
            }
            Self::AnyOf(shapes) => any_of(shapes, value, path, found),
        }
    }
}

fn integer(value: &Value, min: f64, max: f64, path: &str, found: &mut Found) -> bool {
    let Some(number) = value.as_f64().filter(|_| value.is_number()) else {
        return found.add(path, "must be integer");
    };
    let mut ok = number.fract() == 0.0 || found.add(path, "must be integer");
    if number > max {
        ok = found.add(path, format!("must be <= {}", plain(max)));
    }
    if number < min {
        ok = found.add(path, format!("must be >= {}", plain(min)));
    }
    ok
}

fn text(
    value: &Value,
    min: usize,
    max: usize,
    pattern: Option<Pattern>,
    path: &str,
    found: &mut Found,
) -> bool {
    let Some(text) = value.as_str() else {
        return found.add(path, "must be string");
    };
    let mut ok = true;
    if min > 0 || max != usize::MAX {
        let count = graphemes(text);
        if count > max {
            ok = found.add(path, format!("must not have more than {max} characters"));
        }
        if count < min {
            ok = found.add(path, format!("must not have fewer than {min} characters"));
        }
    }
    if let Some(pattern) = pattern
        && !(pattern.matches)(text)
    {
        ok = found.add(path, format!("must match pattern \"{}\"", pattern.source));
    }
    ok
}

fn list(
    entries: &[Value],
    items: &Shape,
    (min, max): (usize, usize),
    unique: bool,
    path: &str,
    found: &mut Found,
) -> bool {
    let mut ok = every(entries.iter().enumerate(), |(index, entry)| {
        items.visit(entry, &format!("{path}/{index}"), found)
    });
    if entries.len() > max {
        ok = found.add(path, format!("must not have more than {max} items"));
    }
    if entries.len() < min {
        ok = found.add(path, format!("must not have fewer than {min} items"));
    }
    if unique
        && entries
            .iter()
            .enumerate()
            .any(|(index, entry)| entries[..index].contains(entry))
    {
        ok = found.add(path, "must not have duplicate items");
    }
    ok
}

fn object(
    map: &Map<String, Value>,
    fields: &'static [Field],
    path: &str,
    found: &mut Found,
) -> bool {
    let mut ok = true;
    if let Some(missing) = fields
        .iter()
        .find(|field| field.required && !map.contains_key(field.name))
    {
        ok = found.push(Raw::Required {
            path: path.to_owned(),
            name: missing.name,
        });
    }
    let unknown: Vec<String> = keys(map)
        .filter(|key| !fields.iter().any(|field| field.name == *key))
        .cloned()
        .collect();
    if !unknown.is_empty() {
        // The original counts one hidden error per unknown key against the limit of eight.
        for key in &unknown {
            found.push(Raw::Forbidden {
                path: format!("{path}/{key}"),
            });
        }
        ok = found.push(Raw::Unknown {
            path: path.to_owned(),
            keys: unknown,
        });
    }
    let fields_ok = every(fields.iter(), |field| {
        map.get(field.name).is_none_or(|value| {
            field
                .shape
                .visit(value, &format!("{path}/{}", field.name), found)
        })
    });
    ok && fields_ok
}

fn any_of(shapes: &[Shape], value: &Value, path: &str, found: &mut Found) -> bool {
    let mut failed = Vec::new();
    for shape in shapes {
        let mut branch = Found::default();
        if shape.visit(value, path, &mut branch) {
            return true;
        }
        failed.extend(branch.0);
    }
    for raw in failed {
        found.push(raw);
    }
    found.add(path, "must match a schema in anyOf")
}

/// Like `all`, but visits every entry: the original reports all that is wrong, not the first.
fn every<T>(entries: impl Iterator<Item = T>, mut check: impl FnMut(T) -> bool) -> bool {
    let mut ok = true;
    for entry in entries {
        ok &= check(entry);
    }
    ok
}

enum Raw {
    Required { path: String, name: &'static str },
    Forbidden { path: String },
    Unknown { path: String, keys: Vec<String> },
    Other { path: String, message: String },
}

#[derive(Default)]
struct Found(Vec<Raw>);

impl Found {
    fn full(&self) -> bool {
        self.0.len() >= RAW_ERRORS_MAX
    }

    fn push(&mut self, raw: Raw) -> bool {
        if !self.full() {
            self.0.push(raw);
        }
        false
    }

    fn add(&mut self, path: &str, message: impl Into<String>) -> bool {
        self.push(Raw::Other {
            path: path.to_owned(),
            message: message.into(),
        })
    }
}

// Source: `normalizeTypeBoxValidationErrors` and packages/gateway-protocol/src/validation-errors.ts at 2026.9.6.
fn format(found: Vec<Raw>) -> String {
    let mut kept: Vec<Raw> = Vec::new();
    for raw in found {
        if let Raw::Unknown { keys, .. } = &raw {
            let start = kept.len().saturating_sub(keys.len());
            if kept[start..]
                .iter()
                .all(|child| matches!(child, Raw::Forbidden { .. }))
            {
                kept.truncate(start);
            }
        }
        kept.push(raw);
    }
    let at = |path: &str| {
        if path.is_empty() {
            String::new()
        } else {
            format!("at {path}: ")
        }
    };
    let mut parts: Vec<String> = Vec::new();
    for raw in &kept {
        let part = match raw {
            Raw::Required { path, name } => {
                format!("{}must have required property '{name}'", at(path))
            }
            Raw::Forbidden { path } => format!("{}schema is false", at(path)),
            Raw::Unknown { path, keys } => match keys.iter().find(|key| !key.trim().is_empty()) {
                Some(key) if path.is_empty() => format!("at root: unexpected property '{key}'"),
                Some(key) => format!("at {path}: unexpected property '{key}'"),
                None => format!("{}must not have additional properties", at(path)),
            },
            Raw::Other { path, message } => format!("{}{message}", at(path)),
        };
        if !parts.contains(&part) {
            parts.push(part);
        }
    }
    if parts.is_empty() {
        "unknown validation error".to_owned()
    } else {
        parts.join("; ")
    }
}

/// Keys in the order a JavaScript object lists them: array indexes ascending, then as written.
fn keys(map: &Map<String, Value>) -> impl Iterator<Item = &String> {
    let index = |key: &str| {
        key.parse::<u32>()
            .ok()
            .filter(|number| *number != u32::MAX && number.to_string() == key)
    };
    let mut numbers: Vec<(u32, &String)> = map
        .keys()
        .filter_map(|key| index(key).map(|number| (number, key)))
        .collect();
    numbers.sort_unstable();
    numbers
        .into_iter()
        .map(|(_, key)| key)
        .chain(map.keys().filter(move |key| index(key).is_none()))
}

fn has_line_break(text: &str) -> bool {
    text.contains(['\n', '\r', '\u{2028}', '\u{2029}'])
}

fn plain(number: f64) -> String {
    format!("{number:.0}")
}

/// Characters as typebox counts them: base plus combining marks and variation selectors, joined emoji and flags as
/// one. Source: typebox 1.3.30 build/guard/string.mjs.
pub fn graphemes(text: &str) -> usize {
    let points: Vec<u32> = text.chars().map(u32::from).collect();
    let modifier = |point: u32| matches!(point, 0xFE00..=0xFE0F | 0x0300..=0x036F | 0x1AB0..=0x1AFF | 0x1DC0..=0x1DFF | 0xFE20..=0xFE2F);
    let regional = |point: u32| (0x1F1E6..=0x1F1FF).contains(&point);
    let skip_modifiers = |mut at: usize| {
        while points.get(at).is_some_and(|point| modifier(*point)) {
            at += 1;
        }
        at
    };
    let mut at = 0;
    let mut count = 0;
    while at < points.len() {
        let start = points[at];
        at = skip_modifiers(at + 1);
        while points.get(at) == Some(&0x200D) && at + 1 < points.len() {
            at = skip_modifiers(at + 2);
        }
        if regional(start) && points.get(at).is_some_and(|point| regional(*point)) {
            at += 1;
        }
        count += 1;
    }
    count
}
