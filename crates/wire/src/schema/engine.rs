//! Walking a value along a schema, collecting what is wrong in the original's order and words.
//!
//! The order of keywords, the wording and the cap of eight errors are those of TypeBox 1.3, with which the
//! original validates; `format_errors` is its `formatValidationErrors`.

use std::borrow::Cow;

use serde_json::Value;
use serde_json::value::RawValue;

use super::compile::{Kind, Node, Schema};
use crate::raw::{self, Fields};

/// TypeBox keeps this many errors of one value and drops the rest.
const ERRORS_MAX: usize = 8;

impl Schema {
    /// `None` when the value is valid, else the joined messages. `None` as value stands for `{}`.
    pub fn errors(&self, value: Option<&RawValue>) -> Option<String> {
        let mut errors = Vec::new();
        let value = value.map_or_else(|| Json::Object(Fields::default()), Json::read);
        let valid = self.0.walk(&value, "", &mut errors);
        (!valid).then(|| format_errors(&errors))
    }
}

/// One value, decoded one level deep.
enum Json<'a> {
    Null,
    Bool(bool),
    Number(f64),
    Text(Cow<'a, str>),
    Array(Vec<&'a RawValue>),
    Object(Fields<'a>),
}

impl<'a> Json<'a> {
    fn read(raw: &'a RawValue) -> Self {
        let text = raw.get();
        match text.as_bytes().first() {
            Some(b'n') => Self::Null,
            Some(b't') => Self::Bool(true),
            Some(b'f') => Self::Bool(false),
            // Half of a surrogate pair is a string for JSON.parse, though none for Rust.
            Some(b'"') => Self::Text(raw::text(raw).unwrap_or(Cow::Borrowed("\u{fffd}"))),
            Some(b'[') => Self::Array(serde_json::from_str(text).unwrap_or_default()),
            Some(b'{') => Self::Object(Fields::parse(raw).unwrap_or_default()),
            _ => Self::Number(raw::number(raw).unwrap_or(f64::NAN)),
        }
    }

    fn is(&self, kind: Kind) -> bool {
        match (kind, self) {
            (Kind::Object, Self::Object(_))
            | (Kind::Array, Self::Array(_))
            | (Kind::String, Self::Text(_))
            | (Kind::Boolean, Self::Bool(_))
            | (Kind::Null, Self::Null) => true,
            (Kind::Number, Self::Number(number)) => number.is_finite(),
            (Kind::Integer, Self::Number(number)) => number.is_finite() && number.fract() == 0.0,
            _ => false,
        }
    }

    /// Equality with a scalar of the schema; schemas compare with nothing else.
    fn equals(&self, expected: &Value) -> bool {
        match (self, expected) {
            (Self::Null, Value::Null) => true,
            (Self::Bool(ours), Value::Bool(theirs)) => ours == theirs,
            (Self::Number(ours), Value::Number(theirs)) => Some(*ours) == theirs.as_f64(),
            (Self::Text(ours), Value::String(theirs)) => ours == theirs,
            _ => false,
        }
    }
}

struct Error {
    path: String,
    what: What,
}

enum What {
    Required(String),
    /// The first of this many keys that the schema does not know. One `Unknown` per key goes before it, and
    /// takes a place among the eight, though it is only shown when there was no place left for this one.
    Unexpected {
        first: String,
        count: usize,
    },
    Unknown,
    Message(String),
}

fn add(errors: &mut Vec<Error>, path: &str, what: What) -> bool {
    extend(errors, [(path.to_owned(), what)]);
    false
}

/// What is over the cap is dropped at once: it would never be shown, and a hostile array can hold millions.
fn extend(errors: &mut Vec<Error>, more: impl IntoIterator<Item = (String, What)>) {
    let room = ERRORS_MAX.saturating_sub(errors.len());
    let more = more.into_iter().map(|(path, what)| Error { path, what });
    errors.extend(more.take(room));
}

impl Node {
    /// Whether the value is valid; every error found on the way is added, as TypeBox's error mode does.
    fn walk(&self, value: &Json<'_>, path: &str, errors: &mut Vec<Error>) -> bool {
        if self.never {
            return add(errors, path, What::Unknown);
        }
        let say =
            |errors: &mut Vec<Error>, message: String| add(errors, path, What::Message(message));
        let mut valid = true;
        if let Some(kind) = self.kind
            && !value.is(kind)
        {
            valid = say(errors, format!("must be {}", kind.as_str()));
        }
        valid &= match value {
            Json::Object(fields) => self.walk_object(fields, path, errors),
            Json::Array(items) => self.walk_array(items, path, errors),
            Json::Text(text) => self.walk_text(text, path, errors),
            Json::Number(number) => self.walk_number(*number, path, errors),
            Json::Null | Json::Bool(_) => true,
        };
        if let Some(expected) = &self.constant
            && !value.equals(expected)
        {
            valid = say(errors, "must be equal to constant".to_owned());
        }
        if let Some(options) = &self.options
            && !options.iter().any(|option| value.equals(option))
        {
            valid = say(
                errors,
                "must be equal to one of the allowed values".to_owned(),
            );
        }
        if let Some(not) = &self.not
            && not.walk(value, path, &mut Vec::new())
        {
            valid = say(errors, "must not be valid".to_owned());
        }
        for node in &self.all_of {
            valid &= node.walk(value, path, errors);
        }
        if !self.any_of.is_empty() {
            let mut failed = Vec::new();
            if !self
                .any_of
                .iter()
                .any(|node| node.walk(value, path, &mut failed))
            {
                extend(
                    errors,
                    failed.into_iter().map(|error| (error.path, error.what)),
                );
                valid = say(errors, "must match a schema in anyOf".to_owned());
            }
        }
        if !self.one_of.is_empty() {
            let mut failed = Vec::new();
            let passing = self
                .one_of
                .iter()
                .filter(|node| node.walk(value, path, &mut failed))
                .count();
            if passing != 1 {
                if passing == 0 {
                    extend(
                        errors,
                        failed.into_iter().map(|error| (error.path, error.what)),
                    );
                }
                valid = say(errors, "must match exactly one schema in oneOf".to_owned());
            }
        }
        valid
    }

    fn walk_object(&self, fields: &Fields<'_>, path: &str, errors: &mut Vec<Error>) -> bool {
        let mut valid = true;
        if let Some(missing) = self.required.iter().find(|name| !fields.has(name)) {
            valid = add(errors, path, What::Required(missing.clone()));
        }
        if let Some(additional) = &self.additional {
            let known = |key: &str| {
                self.properties.iter().any(|(name, _)| name == key)
                    || self.pattern_properties.iter().any(|(p, _)| p.matches(key))
            };
            let mut unknown: Vec<_> = fields.iter().filter(|(key, _)| !known(key)).collect();
            // JavaScript lists keys that are array indices first, in numeric order.
            unknown.sort_by_key(|(key, _)| array_index(key).map_or(u64::MAX, u64::from));
            unknown.retain(|(key, raw)| !additional.walk_field(raw, path, key, errors));
            if let Some((first, _)) = unknown.first() {
                let (first, count) = ((*first).to_owned(), unknown.len());
                valid = add(errors, path, What::Unexpected { first, count });
            }
        }
        for (pattern, node) in &self.pattern_properties {
            for (key, raw) in fields.iter().filter(|(key, _)| pattern.matches(key)) {
                valid &= node.walk(&Json::read(raw), &format!("{path}/{key}"), errors);
            }
        }
        for (name, node) in &self.properties {
            if let Some(raw) = fields.get(name) {
                valid &= node.walk_field(raw, path, name, errors);
            }
        }
        if let Some(min) = self.properties_min.filter(|min| fields.len() < *min) {
            let message = format!("must not have fewer than {min} properties");
            valid = add(errors, path, What::Message(message));
        }
        if let Some(max) = self.properties_max.filter(|max| fields.len() > *max) {
            let message = format!("must not have more than {max} properties");
            valid = add(errors, path, What::Message(message));
        }
        valid
    }

    /// A property, without building its path when nothing is wrong with it.
    fn walk_field(&self, raw: &RawValue, path: &str, name: &str, errors: &mut Vec<Error>) -> bool {
        let value = Json::read(raw);
        let mut own = Vec::new();
        if self.walk(&value, "", &mut own) {
            return true;
        }
        let own = own.into_iter();
        extend(
            errors,
            own.map(|error| (format!("{path}/{name}{}", error.path), error.what)),
        );
        false
    }

    fn walk_array(&self, items: &[&RawValue], path: &str, errors: &mut Vec<Error>) -> bool {
        let mut valid = true;
        if let Some(node) = &self.items {
            for (index, raw) in items.iter().enumerate() {
                valid &= node.walk_field(raw, path, &index.to_string(), errors);
                if !valid && errors.len() >= ERRORS_MAX {
                    return false;
                }
            }
        }
        if let Some(max) = self.items_max.filter(|max| items.len() > *max) {
            let message = format!("must not have more than {max} items");
            valid = add(errors, path, What::Message(message));
        }
        if let Some(min) = self.items_min.filter(|min| items.len() < *min) {
            let message = format!("must not have fewer than {min} items");
            valid = add(errors, path, What::Message(message));
        }
        if self.unique_items && has_duplicates(items) {
            let message = "must not have duplicate items".to_owned();
            valid = add(errors, path, What::Message(message));
        }
        valid
    }

    fn walk_text(&self, text: &str, path: &str, errors: &mut Vec<Error>) -> bool {
        let mut valid = true;
        if let Some(max) = self
            .length_max
            .filter(|max| graphemes(text, max + 1) > *max)
        {
            let message = format!("must not have more than {max} characters");
            valid = add(errors, path, What::Message(message));
        }
        if let Some(min) = self.length_min.filter(|min| graphemes(text, *min) < *min) {
            let message = format!("must not have fewer than {min} characters");
            valid = add(errors, path, What::Message(message));
        }
        if let Some(pattern) = self
            .pattern
            .as_ref()
            .filter(|pattern| !pattern.matches(text))
        {
            let message = format!("must match pattern \"{}\"", pattern.text);
            valid = add(errors, path, What::Message(message));
        }
        valid
    }

    fn walk_number(&self, number: f64, path: &str, errors: &mut Vec<Error>) -> bool {
        // Not a number for TypeBox either, so bounds do not apply.
        if !number.is_finite() {
            return true;
        }
        let mut valid = true;
        if let Some(max) = self.maximum.as_ref().filter(|max| number > max.value) {
            valid = add(
                errors,
                path,
                What::Message(format!("must be <= {}", max.text)),
            );
        }
        if let Some(min) = self.minimum.as_ref().filter(|min| number < min.value) {
            valid = add(
                errors,
                path,
                What::Message(format!("must be >= {}", min.text)),
            );
        }
        valid
    }
}

/// Source: `formatValidationErrors` in packages/gateway-protocol/src/validator-registry.ts.
fn format_errors(errors: &[Error]) -> String {
    let mut parts: Vec<String> = Vec::new();
    for (at, Error { path, what }) in errors.iter().enumerate() {
        let at_path = if path.is_empty() {
            String::new()
        } else {
            format!("at {path}: ")
        };
        let part = match what {
            What::Unexpected { first, .. } if path.is_empty() => {
                format!("at root: unexpected property '{first}'")
            }
            What::Unexpected { first, .. } => format!("{at_path}unexpected property '{first}'"),
            What::Required(key) => format!("{at_path}must have required property '{key}'"),
            What::Unknown if is_summed_up(errors, at) => continue,
            What::Unknown => format!("{at_path}schema is false"),
            What::Message(message) => format!("{at_path}{message}"),
        };
        if !parts.contains(&part) {
            parts.push(part);
        }
    }
    parts.join("; ")
}

/// The unknown key at this place is one of those that the next `Unexpected` counts.
/// Source: `normalizeTypeBoxValidationErrors` in packages/normalization-core/src/json-schema.ts.
fn is_summed_up(errors: &[Error], at: usize) -> bool {
    let after = errors[at..]
        .iter()
        .position(|error| !matches!(error.what, What::Unknown));
    after.is_some_and(|distance| match &errors[at + distance].what {
        What::Unexpected { count, .. } => distance <= *count,
        _ => false,
    })
}

/// An array index as JavaScript orders keys: canonical digits below 2^32 - 1.
fn array_index(key: &str) -> Option<u32> {
    let canonical =
        key == "0" || (!key.starts_with('0') && key.bytes().all(|b| b.is_ascii_digit()));
    key.parse()
        .ok()
        .filter(|index| canonical && *index < u32::MAX)
}

fn has_duplicates(items: &[&RawValue]) -> bool {
    let mut seen = std::collections::HashSet::with_capacity(items.len());
    !items.iter().all(|raw| {
        let text = match Json::read(raw) {
            Json::Text(text) => format!("\"{text}"),
            Json::Number(number) => number.to_string(),
            _ => raw.get().to_owned(),
        };
        seen.insert(text)
    })
}

/// Characters as TypeBox counts them, up to `limit`: marks, joined emoji and flags count once.
/// Source: typebox/build/guard/string.mjs.
fn graphemes(text: &str, limit: usize) -> usize {
    if text.is_ascii() {
        return text.len().min(limit);
    }
    let is_modifier = |c: char| {
        matches!(c, '\u{300}'..='\u{36f}' | '\u{1ab0}'..='\u{1aff}' | '\u{1dc0}'..='\u{1dff}'
            | '\u{fe20}'..='\u{fe2f}' | '\u{fe00}'..='\u{fe0f}')
    };
    let is_flag_half = |c: char| matches!(c, '\u{1f1e6}'..='\u{1f1ff}');
    let mut chars = text.chars().peekable();
    let mut count = 0;
    while count < limit
        && let Some(start) = chars.next()
    {
        count += 1;
        while chars.next_if(|c| is_modifier(*c)).is_some() {}
        loop {
            let mut ahead = chars.clone();
            // A joiner at the very end joins nothing.
            if ahead.next() != Some('\u{200d}') || ahead.next().is_none() {
                break;
            }
            chars = ahead;
            while chars.next_if(|c| is_modifier(*c)).is_some() {}
        }
        if is_flag_half(start) {
            chars.next_if(|c| is_flag_half(*c));
        }
    }
    count
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn characters_are_counted_as_typebox_does() {
        let check = |text, expected| assert_eq!(graphemes(text, 99), expected, "{text:?}");
        check("", 0);
        check("abc", 3);
        check("e\u{301}a", 2);
        check("\u{1f468}\u{200d}\u{1f469}\u{200d}\u{1f467}", 1);
        check("\u{1f1e9}\u{1f1ea}\u{1f1eb}", 2);
        check("a\u{200d}", 2);
        assert_eq!(graphemes("äöü", 2), 2);
    }

    #[test]
    fn keys_that_are_indices_come_first() {
        assert_eq!(array_index("10"), Some(10));
        for key in ["01", "-1", "a", "", "4294967295", "+1"] {
            assert_eq!(array_index(key), None, "{key:?}");
        }
    }
}
