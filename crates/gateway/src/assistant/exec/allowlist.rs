//! Which commands are trusted: entries of a list against what a line would run.
//!
//! Source: src/infra/exec-approvals-allowlist.ts, exec-command-resolution.ts and exec-allowlist-pattern.ts at 2026.9.6.
//! Programs that run other programs are trusted only as the original trusts them, or less: it looks for the inner command of
//! some (`env`, `timeout`), here all of them ask.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::policy::expand;
use super::safe_bins::SafeBins;
use super::shell::{Plan, Step};

/// The entry's `argPattern` of arguments that were allowed in one folder.
pub(super) const CWD_BOUND: &str = "sha256:cwd-argv:v1:";
const LEGACY_BOUND: &str = "sha256:argv:";
/// Built into the shell, and harmless. Not `test` and `[`: shells' own evaluate what is in their arguments
/// (`-v 'x[$(command)]'`), the programs of these names do not.
const BUILTINS: [&str; 5] = [":", "cd", "false", "pwd", "true"];
/// Programs that run what they are given; an entry for one would be an entry for everything.
const CARRIERS: &str = "arch ash bash builtin bunx busybox bwrap caffeinate catchsegv chroot chrt command corepack cpulimit csh dash doas eatmydata elvish env eval exec firejail fish flock gosu ionice ksh linux32 linux64 mksh nice nohup npm npx nsenter nu numactl osh parallel pkexec pnpm powershell proot proxychains proxychains4 pwsh runuser sandbox-exec script setarch setpriv setsid sh source stdbuf su sudo systemd-run taskset tcsh time timeout torify torsocks toybox unbuffer unshare watch xargs xcrun xonsh xvfb-run yarn yash zsh . trap";
/// Programs that take code as an argument.
const INTERPRETERS: &str = "python pypy node nodejs bun deno awk gawk mawk nawk ruby perl php r rscript julia elixir iex guile groovy scala scala-cli clojure clj raku perl6 ghc ghci erl werl gdb expect lua osascript find make gmake sed gsed xargs";

/// A program as a step names it.
#[derive(Debug, Clone)]
pub(super) struct Program {
    /// As it would be started.
    pub(super) path: PathBuf,
    /// Links followed.
    pub(super) real: PathBuf,
}

impl Program {
    /// It is no link to a program of another name, which would do another thing under each of its names.
    fn has_own_name(&self) -> bool {
        self.path.file_name() == self.real.file_name()
    }
}

/// Finds what a word runs, in `PATH` or from `cwd`.
pub(super) fn resolve(word: &str, cwd: &Path, path: &str) -> Option<Program> {
    let is_file = |path: &Path| {
        std::fs::metadata(path)
            .is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
    };
    let found = match word.contains('/') {
        true => Some(cwd.join(word)).filter(|path| is_file(path)),
        // A folder that is not absolute would mean another one elsewhere.
        false => path
            .split(':')
            .filter(|dir| dir.starts_with('/'))
            .map(|dir| Path::new(dir).join(word))
            .find(|path| is_file(path)),
    }?;
    let real = std::fs::canonicalize(&found).ok()?;
    Some(Program { path: found, real })
}

/// Why a step may run.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Trust {
    /// An entry of the list.
    Entry(Value),
    SafeBin,
    /// The shell does it, by this name.
    Builtin,
    /// The program `test` or `[`, by its place.
    Test,
}

/// What lists are looked up with.
pub(super) struct Lookup<'a> {
    pub(super) entries: &'a [Value],
    pub(super) safe_bins: SafeBins<'a>,
    pub(super) cwd: &'a Path,
    pub(super) path: &'a str,
    pub(super) home: &'a Path,
}

impl Lookup<'_> {
    /// Why each step of a line may run; `None` for one that may not.
    pub(super) fn judge(&self, plan: &Plan) -> Vec<(Option<Trust>, Option<Program>)> {
        // What was allowed in a folder was not allowed in where the line goes.
        let mut has_moved = false;
        plan.steps
            .iter()
            .map(|step| {
                let program = resolve(&step.argv[0], self.cwd, self.path);
                let trust = self.trust(step, program.as_ref(), has_moved);
                has_moved |= step.argv[0] == "cd";
                (trust, program)
            })
            .collect()
    }

    fn trust(&self, step: &Step, program: Option<&Program>, has_moved: bool) -> Option<Trust> {
        if step.has_assignments || is_carrier(&step.argv, program) {
            return None;
        }
        if let Some(entry) = self.entry(step, program, has_moved) {
            return Some(Trust::Entry(entry.clone()));
        }
        let name = &step.argv[0];
        if let Some(program) = program
            && let Some(file) = program.path.file_name()
            && self
                .safe_bins
                .admit(&file.to_string_lossy(), &program.real, &step.argv[1..])
        {
            return Some(Trust::SafeBin);
        }
        if BUILTINS.contains(&name.as_str()) {
            return Some(Trust::Builtin);
        }
        let is_test =
            name == "test" || (name == "[" && step.argv.last().is_some_and(|last| last == "]"));
        (is_test && program.is_some()).then_some(Trust::Test)
    }

    fn entry(&self, step: &Step, program: Option<&Program>, has_moved: bool) -> Option<&Value> {
        let text = |entry: &Value, key: &str| {
            let text = entry.get(key)?.as_str()?.trim().to_owned();
            (!text.is_empty()).then_some(text)
        };
        let is_generated = |entry: &Value| entry["source"] == "allow-always";
        let wild = self.entries.iter().find(|entry| {
            text(entry, "pattern").as_deref() == Some("*")
                && text(entry, "argPattern").is_none()
                && !is_generated(entry)
        });
        if wild.is_some() {
            return wild;
        }
        let program = program?;
        let mut by_path = None;
        for entry in self.entries {
            let Some(pattern) = text(entry, "pattern") else {
                continue;
            };
            let is_meant = match pattern.contains(['/', '\\', '~']) {
                true => matches(
                    &expand(&pattern, self.home),
                    &program.real.to_string_lossy(),
                ),
                false => {
                    let is_bare = !step.argv[0].contains(['/', '\\', '~']);
                    let name = program.path.file_name().map(|name| name.to_string_lossy());
                    pattern != "*" && is_bare && name.is_some_and(|name| matches(&pattern, &name))
                }
            };
            if !is_meant {
                continue;
            }
            match text(entry, "argPattern") {
                None if is_generated(entry) => {}
                None => by_path = by_path.or(Some(entry)),
                Some(bound) if bound.starts_with(CWD_BOUND) => {
                    if !has_moved
                        && program.has_own_name()
                        && bound == bound_to(&step.argv, self.cwd)
                    {
                        return Some(entry);
                    }
                }
                Some(expression)
                    if !is_generated(entry) && arguments_match(&expression, &step.argv[1..]) =>
                {
                    return Some(entry);
                }
                Some(_) => {}
            }
        }
        by_path
    }
}

/// A program's name without folder and version: `/usr/bin/python3.11` is `python`.
fn base_name(word: &str) -> String {
    let name = word.rsplit('/').next().unwrap_or(word).to_lowercase();
    name.strip_suffix(".exe").unwrap_or(&name).to_owned()
}

fn is_listed(list: &str, name: &str) -> bool {
    let bare =
        name.trim_end_matches(|char: char| char.is_ascii_digit() || matches!(char, '.' | '-'));
    list.split(' ')
        .any(|listed| listed == name || (!bare.is_empty() && listed == bare))
}

/// Whether a command runs another that its words name.
fn is_carrier(argv: &[String], program: Option<&Program>) -> bool {
    let real = program.map(|program| base_name(&program.real.to_string_lossy()));
    let names = [Some(base_name(&argv[0])), real];
    let mut names = names.into_iter().flatten();
    let finds = |name: &String| {
        name == "find"
            && argv.iter().any(|argument| {
                matches!(argument.as_str(), "-exec" | "-execdir" | "-ok" | "-okdir")
            })
    };
    names.any(|name| CARRIERS.split(' ').any(|carrier| carrier == name) || finds(&name))
}

/// Whether a program of this name runs what its words name.
pub(super) fn carries(word: &str) -> bool {
    CARRIERS
        .split(' ')
        .any(|carrier| carrier == base_name(word))
}

pub(super) fn is_interpreter(word: &str) -> bool {
    is_listed(INTERPRETERS, &base_name(word))
}

pub(super) fn is_shell(word: &str) -> bool {
    const SHELLS: &str = "ash bash csh dash elvish fish ksh mksh nu osh sh tcsh xonsh yash zsh";
    SHELLS.split(' ').any(|shell| shell == base_name(word))
}

/// What a step evaluates of its own words, as people are told: `python3 -c`. Rather once too often.
pub(super) fn inline_eval(argv: &[String]) -> Option<String> {
    let word = argv.iter().find(|word| is_interpreter(word))?;
    let name = base_name(word);
    let flag = argv
        .iter()
        .skip(1)
        .find(|argument| argument.starts_with('-') && argument.len() > 1);
    match (flag, is_listed("awk gawk mawk nawk sed gsed xargs", &name)) {
        (Some(flag), _) => Some(format!("{name} {flag}")),
        (None, true) => Some(format!("{name} inline program")),
        (None, false) => None,
    }
}

/// A glob of the original: `*` within a folder, `**` over folders, `?` one character.
fn matches(pattern: &str, target: &str) -> bool {
    fn from(pattern: &[char], target: &[char]) -> bool {
        match pattern {
            [] => target.is_empty(),
            ['*', '*', rest @ ..] => (0..=target.len()).any(|at| from(rest, &target[at..])),
            ['*', rest @ ..] => {
                let folder = target
                    .iter()
                    .position(|char| *char == '/')
                    .unwrap_or(target.len());
                (0..=folder).any(|at| from(rest, &target[at..]))
            }
            ['?', rest @ ..] => {
                target.first().is_some_and(|char| *char != '/') && from(rest, &target[1..])
            }
            [char, rest @ ..] => target.first() == Some(char) && from(rest, &target[1..]),
        }
    }
    // Stars multiply what there is to try.
    if pattern.matches('*').count() > 12 || pattern.len() > 4096 {
        return false;
    }
    let (pattern, target): (Vec<char>, Vec<char>) =
        (pattern.chars().collect(), target.chars().collect());
    from(&pattern, &target)
}

/// An ECMAScript expression on the arguments, as far as it means the same to us: what may not, matches nothing.
fn arguments_match(expression: &str, arguments: &[String]) -> bool {
    if expression.starts_with(LEGACY_BOUND) || expression.contains('\0') {
        return false;
    }
    let text = arguments.join(" ");
    let is_plain = |text: &str| {
        text.bytes()
            .all(|byte| byte.is_ascii_graphic() || byte == b' ')
    };
    if !is_plain(expression) || !is_plain(&text) {
        return false;
    }
    let mut chars = expression.chars().peekable();
    let mut in_class = false;
    while let Some(char) = chars.next() {
        let next = chars.peek().copied();
        let is_shared = match char {
            '\\' => {
                let escaped = chars.next();
                escaped.is_some_and(|escaped| {
                    escaped.is_ascii_punctuation() || "dDwWsSbBnrtfv".contains(escaped)
                }) && !(in_class && matches!(escaped, Some('b' | 'B')))
            }
            '[' if in_class => false,
            '[' => {
                in_class = true;
                next != Some(']') && !expression.contains("[^]")
            }
            ']' => {
                in_class = false;
                true
            }
            '&' | '~' | '-' if in_class => next != Some(char),
            '(' if !in_class && next == Some('?') => {
                chars.next();
                chars.peek() == Some(&':')
            }
            _ => true,
        };
        if !is_shared {
            return false;
        }
    }
    regex_lite::Regex::new(expression).is_ok_and(|expression| expression.is_match(&text))
}

/// The `argPattern` that allows these arguments in this folder.
pub(super) fn bound_to(argv: &[String], cwd: &Path) -> String {
    let cwd = cwd.to_string_lossy().replace('\\', "/");
    let mut subject = format!("{}\0{cwd}\0{}\0", cwd.len(), argv.len().saturating_sub(1));
    for argument in argv.iter().skip(1) {
        subject.push_str(&format!("{}\0{argument}\0", argument.len()));
    }
    format!("{CWD_BOUND}{}", sha256(subject.as_bytes()))
}

pub(super) fn sha256(bytes: &[u8]) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA256, bytes);
    digest
        .as_ref()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// What `allow-always` of a line would write: pattern and `argPattern` of each step. `None`: no entry would say what was
/// allowed.
pub(super) fn generated(
    plan: &Plan,
    programs: &[Option<Program>],
    cwd: &Path,
) -> Option<Vec<(String, String)>> {
    let mut entries = Vec::new();
    for (step, program) in plan.steps.iter().zip(programs) {
        let program = program.as_ref()?;
        let is_refused = step.has_assignments
            || step.has_patterns
            || !program.has_own_name()
            || is_carrier(&step.argv, Some(program))
            || is_interpreter(&program.real.to_string_lossy())
            || is_interpreter(&step.argv[0]);
        if is_refused {
            return None;
        }
        let entry = (
            program.real.display().to_string(),
            bound_to(&step.argv, cwd),
        );
        if !entries.contains(&entry) {
            entries.push(entry);
        }
    }
    Some(entries)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// A folder with programs, as PATH.
    fn programs(names: &[&str]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().expect("a directory");
        for name in names {
            let path = dir.path().join(name);
            std::fs::write(&path, "#!/bin/sh\n").expect("written");
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("set");
        }
        dir
    }

    #[test]
    fn every_step_must_be_trusted() {
        let dir = programs(&[
            "ls", "echo", "grep", "env", "python3", "wc", "find", "sh", "[", "ctl",
        ]);
        let real = dir.path().canonicalize().expect("a path");
        let path = real.display().to_string();
        std::os::unix::fs::symlink(real.join("python3"), real.join("alias")).expect("linked");
        std::os::unix::fs::symlink(real.join("ctl"), real.join("reboot")).expect("linked");
        let cwd = Path::new("/");
        let bound = bound_to(&["echo", "here"].map(str::to_owned), cwd);
        let alone = bound_to(&["ctl".to_owned()], cwd);
        let entries = [
            json!({ "pattern": format!("{path}/ls") }),
            json!({ "pattern": "grep", "argPattern": "^-n foo$" }),
            json!({ "pattern": format!("{path}/echo"), "argPattern": bound, "source": "allow-always" }),
            json!({ "pattern": format!("{path}/python3"), "source": "allow-always" }),
            json!({ "pattern": format!("{path}/ctl"), "argPattern": alone, "source": "allow-always" }),
            json!({ "pattern": "env" }),
            json!({ "pattern": "find" }),
            json!({ "pattern": format!("{path}/sh") }),
        ];
        let dirs = [real.clone()];
        let names = ["wc".to_owned()];
        let profiles = super::super::safe_bins::profiles();
        let lookup = Lookup {
            entries: &entries,
            safe_bins: SafeBins {
                names: &names,
                trusted_dirs: &dirs,
                profiles: &profiles,
            },
            cwd,
            path: &path,
            home: Path::new("/h"),
        };
        let check = |line: &str, expected: bool| {
            let plan = Plan::read(line).expect(line);
            let judged = lookup.judge(&plan);
            assert_eq!(
                judged.iter().all(|(trust, _)| trust.is_some()),
                expected,
                "{line}"
            );
        };
        for line in [
            "ls -la",
            "ls; ls",
            "grep -n foo",
            "echo here",
            "ctl",
            "echo here && cd /",
            "ls | wc -l",
            "cd / && ls",
            "[ -f x ] || ls",
            "find . -name x",
        ] {
            check(line, true);
        }
        for line in [
            "grep -n bar",
            "grep -n foo x",
            "echo there",
            "ls | wc -l x",
            "ls; echo",
            "env ls",
            "A=1 ls",
            "python3 x",
            "alias x",
            "nothing",
            "./ls",
            "sh -c ls",
            "find . -exec ls",
            "[ -f x",
            // Allowed in one folder; another name of the same program; the shell's own would run what is in the brackets.
            "cd / && echo here",
            "reboot",
            "test -v 'x[$(ls)]'",
        ] {
            check(line, false);
        }
        // What would be written down names a program that is one thing alone.
        let plan = Plan::read("reboot").expect("a line");
        let program = resolve("reboot", cwd, &path);
        assert_eq!(generated(&plan, &[program], cwd), None);
        // By a path, a bare name does not match.
        check(&format!("{path}/grep -n foo"), false);
        check(&format!("{path}/ls"), true);
    }

    #[test]
    fn patterns_match_as_the_original_s_do() {
        let check = |pattern: &str, target: &str, expected: bool| {
            assert_eq!(matches(pattern, target), expected, "{pattern} {target}");
        };
        check("/usr/bin/*", "/usr/bin/ls", true);
        check("/usr/*", "/usr/bin/ls", false);
        check("/usr/**", "/usr/bin/ls", true);
        check("/usr/**/ls", "/usr/a/b/ls", true);
        check("l?", "ls", true);
        check("l?", "l/", false);
        check("ls", "LS", false);
        check("a.c", "abc", false);
    }

    #[test]
    fn expressions_that_differ_match_nothing() {
        let check = |expression: &str, line: &str, expected: bool| {
            let arguments: Vec<String> = line.split(' ').map(str::to_owned).collect();
            assert_eq!(
                arguments_match(expression, &arguments),
                expected,
                "{expression} {line}"
            );
        };
        check("^safe\\.py$", "safe.py", true);
        check("^safe\\.py$", "safexpy", false);
        check("^(?:a|b) \\d+$", "b 12", true);
        check("^[a-z]+$", "abc", true);
        for expression in [
            "(?i)A",
            "(?=a)",
            "(?<n>a)",
            "a\\z",
            "\\Aa",
            "[[:alpha:]]",
            "[a&&b]",
            "(a)\\1",
            "sha256:argv:00",
            "a\u{e9}",
            "[^]",
            "\\p{L}",
        ] {
            check(expression, "a", false);
        }
        check(".*", "a\rb", false);
    }

    #[test]
    fn an_entry_for_always_holds_in_its_folder_only() {
        // The original's own value: node -e with buildCwdBoundHashedArgPattern(["echo", "a b"], "/w").
        let bound = bound_to(&["echo", "a b"].map(str::to_owned), Path::new("/w"));
        assert_eq!(
            bound,
            format!("{CWD_BOUND}{}", sha256(b"2\0/w\x001\x003\0a b\0"))
        );
        let dir = programs(&["one", "python3", "timeout"]);
        let path = dir
            .path()
            .canonicalize()
            .expect("a path")
            .display()
            .to_string();
        let entries = |line: &str| {
            let plan = Plan::read(line).expect(line);
            let programs: Vec<_> = plan
                .steps
                .iter()
                .map(|step| resolve(&step.argv[0], Path::new("/"), &path))
                .collect();
            generated(&plan, &programs, Path::new("/"))
        };
        assert_eq!(
            entries("one a; one a; one b").map(|entries| entries.len()),
            Some(2)
        );
        for line in ["python3 x", "timeout 5 one", "one *", "A=1 one", "nothing"] {
            assert_eq!(entries(line), None, "{line}");
        }
    }
}
