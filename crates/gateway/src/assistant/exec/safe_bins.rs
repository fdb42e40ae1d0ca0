//! Programs that only filter what they are given: they run without being listed, as long as their arguments name no file.
//!
//! Source: src/infra/exec-safe-bin-policy-profiles.ts, -validator.ts and -trust.ts at 2026.9.6.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde_json::Value;

pub(super) const DEFAULT: [&str; 6] = ["cut", "uniq", "head", "tail", "tr", "wc"];
/// Whatever a profile says: their scripts run programs and read files.
const NEVER: [&str; 7] = ["jq", "awk", "gawk", "mawk", "nawk", "sed", "gsed"];

/// Which arguments a program may be given.
#[derive(Debug, Clone, Default)]
pub(super) struct Profile {
    positional_min: usize,
    positional_max: Option<usize>,
    with_value: BTreeSet<String>,
    without_value: BTreeSet<String>,
    denied: BTreeSet<String>,
}

impl Profile {
    fn of(positional: (usize, usize), with_value: &str, without_value: &str, denied: &str) -> Self {
        let set = |flags: &str| flags.split_ascii_whitespace().map(str::to_owned).collect();
        Self {
            positional_min: positional.0,
            positional_max: Some(positional.1),
            with_value: set(with_value),
            without_value: set(without_value),
            denied: set(denied),
        }
    }

    /// A profile of the user's.
    pub(super) fn read(value: &Value) -> Self {
        let count = |key: &str| {
            let count = value.get(key)?.as_f64().filter(|count| *count >= 0.0)?;
            Some(count as usize)
        };
        let flags = |key: &str| -> BTreeSet<String> {
            let listed = value
                .get(key)
                .and_then(Value::as_array)
                .into_iter()
                .flatten();
            listed
                .filter_map(Value::as_str)
                .map(|flag| flag.trim().to_owned())
                .filter(|flag| !flag.is_empty())
                .collect()
        };
        let positional_min = count("minPositional").unwrap_or(0);
        Self {
            positional_min,
            positional_max: count("maxPositional").map(|max| max.max(positional_min)),
            with_value: flags("allowedValueFlags"),
            without_value: BTreeSet::new(),
            denied: flags("deniedFlags"),
        }
    }

    /// Whether a program may be given these arguments.
    fn admits(&self, arguments: &[String]) -> bool {
        let mut positional = 0;
        let mut at = 0;
        while let Some(argument) = arguments.get(at) {
            let next = arguments.get(at + 1);
            at += match argument.as_str() {
                "" | "-" => 1,
                "--" => {
                    let rest = arguments[at + 1..]
                        .iter()
                        .filter(|rest| !rest.is_empty() && *rest != "-");
                    for rest in rest {
                        if !is_literal(rest) {
                            return false;
                        }
                        positional += 1;
                    }
                    break;
                }
                long if long.starts_with("--") => match self.long(long, next) {
                    Some(taken) => taken,
                    None => return false,
                },
                short if short.starts_with('-') => match self.short(short, next) {
                    Some(taken) => taken,
                    None => return false,
                },
                word => {
                    if !is_literal(word) {
                        return false;
                    }
                    positional += 1;
                    1
                }
            };
        }
        positional >= self.positional_min && self.positional_max.is_none_or(|max| positional <= max)
    }

    /// How many arguments an option takes; `None`: it may not be given.
    fn long(&self, argument: &str, next: Option<&String>) -> Option<usize> {
        let (flag, inline) = match argument.split_once('=') {
            Some((flag, inline)) => (flag, Some(inline)),
            None => (argument, None),
        };
        let known = || {
            let all = self
                .with_value
                .iter()
                .chain(&self.without_value)
                .chain(&self.denied);
            all.filter(|known| known.starts_with("--"))
        };
        // An abbreviation of one flag stands for it.
        let full = match known().find(|known| *known == flag) {
            Some(exact) => exact,
            None => {
                let mut begun = known().filter(|known| known.starts_with(flag));
                let only = begun.next().filter(|_| flag.len() > 2)?;
                if begun.any(|other| other != only) {
                    return None;
                }
                only
            }
        };
        if self.denied.contains(full) {
            return None;
        }
        match (self.with_value.contains(full), inline) {
            (true, Some(inline)) => is_literal(inline).then_some(1),
            (true, None) => is_value(next).then_some(2),
            (false, Some(_)) => None,
            (false, None) => Some(1),
        }
    }

    fn short(&self, argument: &str, next: Option<&String>) -> Option<usize> {
        for (at, char) in argument.char_indices().skip(1) {
            let flag = format!("-{char}");
            if self.denied.contains(&flag) {
                return None;
            }
            if self.with_value.contains(&flag) {
                let inline = &argument[at + char.len_utf8()..];
                return match inline.is_empty() {
                    false => is_literal(inline).then_some(1),
                    true => is_value(next).then_some(2),
                };
            }
            if !self.without_value.contains(&flag) {
                return None;
            }
        }
        Some(1)
    }
}

fn is_value(next: Option<&String>) -> bool {
    next.is_some_and(|next| !next.is_empty() && is_literal(next))
}

/// Nothing that names a file or that a shell would make something else of.
fn is_literal(argument: &str) -> bool {
    if argument.is_empty() || argument == "-" {
        return true;
    }
    let trimmed = argument.trim();
    let bytes = trimmed.as_bytes();
    let is_path = ["./", "../", "~", "/"]
        .iter()
        .any(|start| trimmed.starts_with(start))
        || (bytes.len() > 2
            && bytes[0].is_ascii_alphabetic()
            && bytes[1] == b':'
            && matches!(bytes[2], b'/' | b'\\'));
    let is_glob = argument.contains(['*', '?', '[', ']']);
    let mut pairs = argument.chars().zip(argument.chars().skip(1));
    let is_expansion = pairs.any(|(first, second)| {
        first == '$' && (second.is_ascii_alphanumeric() || "_@*?!$#-{([".contains(second))
    });
    !(is_path || is_glob || is_expansion)
}

pub(super) fn profiles() -> BTreeMap<String, Profile> {
    let profile = Profile::of;
    [
        (
            "grep",
            profile(
                (0, 0),
                "--regexp --max-count --after-context --before-context --context --devices --binary-files --exclude --include --label -e -m -A -B -C -D",
                "",
                "--file --exclude-from --dereference-recursive --directories --recursive -f -d -r -R",
            ),
        ),
        (
            "cut",
            profile(
                (0, 0),
                "--bytes --characters --fields --delimiter --output-delimiter -b -c -f -d",
                "--complement --only-delimited --zero-terminated -n -s -z",
                "",
            ),
        ),
        (
            "sort",
            profile(
                (0, 0),
                "--key --field-separator --buffer-size --parallel --batch-size -k -t -S",
                "",
                "--compress-program --files0-from --output --random-source --temporary-directory -T -o",
            ),
        ),
        (
            "uniq",
            profile(
                (0, 0),
                "--skip-fields --skip-chars --check-chars --group -f -s -w",
                "--count --repeated --unique --ignore-case --zero-terminated -c -d -u -i -z",
                "",
            ),
        ),
        (
            "head",
            profile(
                (0, 0),
                "--lines --bytes -n -c",
                "--quiet --silent --verbose --zero-terminated -q -v -z",
                "",
            ),
        ),
        (
            "tail",
            profile(
                (0, 0),
                "--lines --bytes --sleep-interval --max-unchanged-stats --pid -n -c",
                "--quiet --silent --verbose --zero-terminated -q -v -z",
                "--follow --retry -F -f",
            ),
        ),
        (
            "tr",
            profile(
                (1, 2),
                "",
                "--complement --delete --squeeze-repeats --truncate-set1 -C -c -d -s -t",
                "",
            ),
        ),
        (
            "wc",
            profile(
                (0, 0),
                "",
                "--bytes --chars --lines --max-line-length --words -L -c -l -m -w",
                "--files0-from",
            ),
        ),
    ]
    .map(|(name, profile)| (name.to_owned(), profile))
    .into()
}

/// Which programs count, and where they must lie.
pub(super) struct SafeBins<'a> {
    pub(super) names: &'a [String],
    pub(super) trusted_dirs: &'a [PathBuf],
    pub(super) profiles: &'a BTreeMap<String, Profile>,
}

impl SafeBins<'_> {
    /// Whether a program of this name at this place, links followed, may be given these arguments.
    pub(super) fn admit(&self, name: &str, real: &Path, arguments: &[String]) -> bool {
        let name = name.to_lowercase();
        if !self.names.contains(&name) || NEVER.contains(&name.as_str()) {
            return false;
        }
        // The very program that a trusted folder has under this name, itself or by a link: a link elsewhere may call
        // another one so.
        let is_trusted = self.trusted_dirs.iter().any(|trusted| {
            let named = trusted.join(&name);
            real == named || std::fs::canonicalize(&named).is_ok_and(|target| target == real)
        });
        is_trusted
            && self
                .profiles
                .get(&name)
                .is_some_and(|profile| profile.admits(arguments))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_what_reads_its_input_is_admitted() {
        let names = [
            "grep", "sort", "cut", "uniq", "head", "tail", "tr", "wc", "jq", "sed", "own",
        ];
        let names = names.map(str::to_owned);
        let mut profiles = profiles();
        profiles.insert(
            "own".to_owned(),
            Profile::read(
                &json!({ "maxPositional": 1, "allowedValueFlags": ["-n"], "deniedFlags": ["-f"] }),
            ),
        );
        let dirs = [PathBuf::from("/usr/bin")];
        let bins = SafeBins {
            names: &names,
            trusted_dirs: &dirs,
            profiles: &profiles,
        };
        let check = |line: &str, expected: bool| {
            let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
            let real = Path::new("/usr/bin").join(&words[0]);
            assert_eq!(
                bins.admit(&words[0], &real, &words[1..]),
                expected,
                "{line}"
            );
        };
        for line in [
            "wc -l",
            "wc --lines",
            "wc -lc",
            "head -n 5",
            "head -n5",
            "head --lines=5",
            "head --line 5",
            "cut -d: -f1",
            "tr a b",
            "tr -d x",
            "uniq -c",
            "tail -n 3",
            "grep -e foo",
            "sort -k 2",
            "own x",
            "own -n 5 x",
        ] {
            check(line, true);
        }
        for line in [
            "wc -l file",
            "wc --files0-from=x",
            "wc -x",
            "head file",
            "head -n ./x",
            "head --b",
            "tail -f",
            "tail -F",
            "tail --follow",
            "tr",
            "tr a b c",
            "cut -f1 /etc/passwd",
            "grep foo",
            "grep -f x -e y",
            "grep -r -e x",
            "sort -o out",
            "sort --output=x",
            "uniq in out",
            "head -n *",
            "head -n $HOME",
            "jq .",
            "sed p",
            "own -f x",
            "own -q",
            "own a b",
            "wc -- x",
            "cat",
        ] {
            check(line, false);
        }
        assert!(!bins.admit("wc", Path::new("/tmp/wc"), &[]));
        // Called so by a link of somebody's: it is another program of the same folder.
        let script = ["x.py".to_owned()];
        assert!(!bins.admit("tr", Path::new("/usr/bin/python3"), &script));
    }
}
