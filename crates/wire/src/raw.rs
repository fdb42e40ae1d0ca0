//! Looking into raw JSON params without building a tree: the fields of one object, by name.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

/// The top-level fields of a JSON object, values untouched. A repeated key counts once, with its last value,
/// as `JSON.parse` has it. Nesting depth inside the values is not limited.
#[derive(Debug, Default)]
pub struct Fields<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'a> Fields<'a> {
    /// `None` when the text is not an object.
    pub fn parse(raw: &'a RawValue) -> Option<Self> {
        if !is_object(raw) {
            return None;
        }
        serde_json::from_str(raw.get()).ok()
    }

    pub fn get(&self, name: &str) -> Option<&'a RawValue> {
        self.0
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| *value)
    }

    pub fn has(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    /// The value of a field that holds a string.
    pub fn text(&self, name: &str) -> Option<Cow<'a, str>> {
        self.get(name).and_then(text)
    }

    /// The field is the literal `true`.
    pub fn is_true(&self, name: &str) -> bool {
        self.get(name).is_some_and(|value| value.get() == "true")
    }

    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|(key, _)| &**key)
    }

    pub fn iter(&self) -> impl Iterator<Item = (&str, &'a RawValue)> {
        self.0.iter().map(|(key, value)| (&**key, *value))
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

pub fn is_object(raw: &RawValue) -> bool {
    raw.get().starts_with('{')
}

/// The string that this JSON text is.
pub fn text(raw: &RawValue) -> Option<Cow<'_, str>> {
    raw.get().strip_prefix('"')?;
    serde_json::from_str::<Text<'_>>(raw.get())
        .ok()
        .map(|Text(text)| text)
}

/// The number that this JSON text is, as JavaScript would hold it.
pub fn number(raw: &RawValue) -> Option<f64> {
    let first = raw.get().bytes().next()?;
    if first != b'-' && !first.is_ascii_digit() {
        return None;
    }
    raw.get().parse().ok()
}

/// `String.prototype.trim`: Rust's notion of white space differs in U+FEFF and U+0085.
pub fn js_trim(text: &str) -> &str {
    text.trim_matches(is_js_space)
}

/// What `\s` matches in a JavaScript regular expression.
pub fn is_js_space(c: char) -> bool {
    c == '\u{feff}' || (c.is_whitespace() && c != '\u{85}')
}

/// A string borrowed where it holds no escapes.
struct Text<'a>(Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TextVisitor;
        impl<'de> Visitor<'de> for TextVisitor {
            type Value = Cow<'de, str>;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a string")
            }

            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
                Ok(Cow::Borrowed(text))
            }

            fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
                Ok(Cow::Owned(text.to_owned()))
            }
        }
        deserializer.deserialize_str(TextVisitor).map(Self)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Fields<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct FieldsVisitor;
        impl<'de> Visitor<'de> for FieldsVisitor {
            type Value = Fields<'de>;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut fields = Fields::default();
                // Past this many keys a linear search per key would cost more than the map.
                let mut seen = std::collections::HashMap::new();
                while let Some(Text(key)) = map.next_key::<Text<'de>>()? {
                    let value = map.next_value::<&'de RawValue>()?;
                    let known = if fields.0.len() < 16 {
                        fields.0.iter().position(|(existing, _)| *existing == key)
                    } else {
                        if seen.is_empty() {
                            seen.extend(
                                fields
                                    .0
                                    .iter()
                                    .enumerate()
                                    .map(|(at, (k, _))| (k.clone(), at)),
                            );
                        }
                        seen.get(&key).copied()
                    };
                    match known {
                        Some(at) => fields.0[at].1 = value,
                        None => {
                            if !seen.is_empty() {
                                seen.insert(key.clone(), fields.0.len());
                            }
                            fields.0.push((key, value));
                        }
                    }
                }
                Ok(fields)
            }
        }
        deserializer.deserialize_map(FieldsVisitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(text: &str) -> &RawValue {
        serde_json::from_str(text).expect("valid JSON")
    }

    #[test]
    fn the_last_of_a_repeated_key_counts() {
        let fields =
            Fields::parse(raw(r#"{"a":1,"b":"x","a":"y\n","\u0063":true}"#)).expect("object");
        assert_eq!(fields.text("a").as_deref(), Some("y\n"));
        assert_eq!(fields.keys().collect::<Vec<_>>(), ["a", "b", "c"]);
        assert!(fields.is_true("c"));
        assert_eq!(fields.text("missing"), None);
    }

    #[test]
    fn many_keys_stay_cheap_and_right() {
        let mut text = String::from("{");
        for round in 0..2 {
            for key in 0..500 {
                text.push_str(&format!("\"k{key}\":{},", key + round));
            }
        }
        text.push_str("\"end\":0}");
        let fields = Fields::parse(raw(&text)).expect("object");
        assert_eq!(fields.len(), 501);
        assert_eq!(fields.get("k499").map(RawValue::get), Some("500"));
    }

    #[test]
    fn only_objects_have_fields_and_depth_is_no_matter() {
        for text in ["[]", "null", "1", "\"{}\"", "true"] {
            assert!(Fields::parse(raw(text)).is_none(), "{text}");
        }
        let deep = format!("{{\"a\":{}{}}}", "[".repeat(5000), "]".repeat(5000));
        assert!(Fields::parse(raw(&deep)).is_some_and(|fields| fields.has("a")));
    }

    #[test]
    fn numbers_and_trimming_are_javascripts() {
        assert_eq!(number(raw("1e2")), Some(100.0));
        assert_eq!(number(raw("\"1\"")), None);
        assert_eq!(number(raw("null")), None);
        assert_eq!(js_trim("\u{feff} a\u{85} "), "a\u{85}");
    }
}
