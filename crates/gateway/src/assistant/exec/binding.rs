//! What an approval is for: the very files that a line would run when a person was asked. Should one of them be another when
//! the answer comes, the line does not run.
//!
//! Source: src/infra/system-run-approval-binding.ts and its neighbours at 2026.9.6: what can't be bound, and the words for it.
//! Where it looks for the one operand of a program that runs others, here every word that is a file or a program is bound.

use std::fs::{self, File};
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::allowlist::{self, Program, is_interpreter, is_shell, resolve};
use super::shell::{Plan, Step};

/// A larger file is bound by what it is, not by what it holds.
const HASHED_BYTES_MAX: u64 = 256 << 20;
/// Lines in lines: `sh -c 'sh -c …'`.
const DEPTH_MAX: usize = 3;

/// The files, and the folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Binding {
    files: Vec<Bound>,
    cwd: (PathBuf, u64, u64),
    /// We could change one of them ourselves: an approval is for this once.
    pub(super) is_mutable: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Bound {
    /// As it was named.
    path: PathBuf,
    real: PathBuf,
    inode: (u64, u64),
    /// Of one that we could change.
    sha256: Option<String>,
}

const UNBOUND: &str = "SYSTEM_RUN_DENIED: approval cannot safely bind this command";
const RUNTIME: &str =
    "SYSTEM_RUN_DENIED: approval cannot safely bind this interpreter/runtime command";
const OPTIONS: &str =
    "SYSTEM_RUN_DENIED: approval cannot safely bind runtime code-loading or cwd options";
pub(super) const CHANGED: &str =
    "SYSTEM_RUN_DENIED: approval script operand changed before execution";
pub(super) const CWD_CHANGED: &str = "SYSTEM_RUN_DENIED: approval cwd changed before execution";

impl Binding {
    /// # Errors
    /// Why a line can't be bound.
    pub(super) fn of(plan: Option<&Plan>, cwd: &Path, path: &str) -> Result<Self, String> {
        let place = fs::metadata(cwd).map_err(|_gone| {
            "SYSTEM_RUN_DENIED: approval requires an existing canonical cwd".to_owned()
        })?;
        let mut binder = Binder {
            cwd,
            path,
            files: Vec::new(),
            is_mutable: false,
        };
        binder.line(plan.ok_or(UNBOUND)?, 0)?;
        Ok(Self {
            files: binder.files,
            cwd: (cwd.to_owned(), place.dev(), place.ino()),
            is_mutable: binder.is_mutable,
        })
    }

    /// Why a line that was bound may not run any more.
    pub(super) fn drift(&self, plan: Option<&Plan>, path: &str) -> Option<&'static str> {
        let (cwd, dev, ino) = &self.cwd;
        let is_there = fs::symlink_metadata(cwd)
            .is_ok_and(|now| now.is_dir() && (now.dev(), now.ino()) == (*dev, *ino));
        if !is_there {
            return Some(CWD_CHANGED);
        }
        match Self::of(plan, cwd, path) {
            Ok(now) if now == *self => None,
            _ => Some(CHANGED),
        }
    }
}

struct Binder<'a> {
    cwd: &'a Path,
    path: &'a str,
    files: Vec<Bound>,
    is_mutable: bool,
}

impl Binder<'_> {
    fn line(&mut self, plan: &Plan, depth: usize) -> Result<(), String> {
        for (at, step) in plan.steps.iter().enumerate() {
            self.step(step, at + 1 == plan.steps.len(), depth)?;
        }
        Ok(())
    }

    fn step(&mut self, step: &Step, is_last: bool, depth: usize) -> Result<(), String> {
        let word = step.argv[0].as_str();
        let deny = |why: &str| Err(format!("SYSTEM_RUN_DENIED: {why}"));
        if is_shell(word) && step.has_assignments {
            return deny("approval cannot safely bind shell startup environment");
        }
        if matches!(word, "." | "source") {
            return deny("approval cannot safely bind shell source operands");
        }
        if matches!(word, "cd" | "chdir" | "popd" | "pushd") && !is_last {
            return deny("approval cannot safely bind commands after cwd changes");
        }
        // Built into the shell, they run the rest of their words.
        if matches!(word, "exec" | "command" | "builtin") {
            let inner = Step {
                argv: step.argv[1..].to_vec(),
                ..step.clone()
            };
            return match inner
                .argv
                .first()
                .is_some_and(|first| !first.starts_with('-'))
            {
                true => self.step(&inner, is_last, depth),
                false => Err(UNBOUND.to_owned()),
            };
        }
        let Some(program) = resolve(word, self.cwd, self.path) else {
            return match word.contains('/') {
                true => Err(RUNTIME.to_owned()),
                false => deny("approval requires a resolved executable"),
            };
        };
        self.program(&program)?;
        let rest = &step.argv[1..];
        if is_shell(word) || is_shell(&program.real.to_string_lossy()) {
            return self.shell(rest, depth);
        }
        if is_interpreter(word) || is_interpreter(&program.real.to_string_lossy()) {
            return self.interpreter(word, rest);
        }
        self.runs_others(word, rest)
    }

    /// `sh -c LINE`, `sh FILE`, `sh`.
    fn shell(&mut self, rest: &[String], depth: usize) -> Result<(), String> {
        let deny = |why: &str| Err(format!("SYSTEM_RUN_DENIED: {why}"));
        let mut at = 0;
        while let Some(argument) = rest.get(at) {
            let Some(flags) = argument
                .strip_prefix(['-', '+'])
                .filter(|flags| !flags.is_empty())
            else {
                break;
            };
            if argument == "--" {
                at += 1;
                break;
            }
            let is_long = flags.starts_with('-');
            let loads = [
                "-init-file",
                "-rcfile",
                "-startup-script",
                "-interactive",
                "-stdin",
            ];
            if loads.iter().any(|loads| flags.starts_with(loads))
                || (!is_long && flags.contains(['i', 's']))
            {
                return deny("approval cannot safely bind shell startup files");
            }
            if flags == "-command" || (!is_long && flags.contains('c')) {
                let line = rest.get(at + 1).map_or("", String::as_str);
                // Words after it are its parameters.
                let plan = Plan::read(line).filter(|_| depth < DEPTH_MAX && rest.len() == at + 2);
                return match plan {
                    Some(plan) => self.line(&plan, depth + 1),
                    None => Err(RUNTIME.to_owned()),
                };
            }
            at += match flags {
                "o" | "O" => 2,
                _ => 1,
            };
        }
        match rest.get(at) {
            Some(file) if file != "-" => self.script(file),
            _ => Ok(()),
        }
    }

    fn interpreter(&mut self, word: &str, rest: &[String]) -> Result<(), String> {
        let name = Path::new(word)
            .file_name()
            .map_or_else(String::new, |name| name.to_string_lossy().to_lowercase());
        let is = |names: &[&str]| {
            names.iter().any(|listed| {
                name.trim_end_matches(|char: char| char.is_ascii_digit() || char == '.') == *listed
            })
        };
        let has = |flags: &[&str]| {
            rest.iter()
                .any(|argument| flags.iter().any(|flag| argument.starts_with(flag)))
        };
        if is(&["make", "gmake", "find", "xargs", "expect", "gdb"]) {
            return self.runs_others(word, rest);
        }
        let loads = (is(&["node", "nodejs"])
            && has(&[
                "-r",
                "--require",
                "--import",
                "--loader",
                "--experimental-loader",
                "--env-file",
            ]))
            || (is(&["ruby"]) && has(&["-C", "-I", "-r", "-S", "--chdir", "--require"]))
            || (is(&["perl"]) && has(&["-I", "-M", "-m", "-S"]));
        if loads {
            return Err(RUNTIME.to_owned());
        }
        if (is(&["php"]) && has(&["-c", "--php-ini", "-d"]))
            || (is(&["bun", "deno"])
                && has(&[
                    "--bunfig",
                    "--config",
                    "--cwd",
                    "--env-file",
                    "--loader",
                    "--preload",
                    "--tsconfig",
                    "-r",
                    "--import-map",
                    "--lock",
                    "--node-modules-dir",
                ]))
        {
            return Err(OPTIONS.to_owned());
        }
        let first = rest.first().map(String::as_str);
        if let Some(file) = first
            && is(&["node", "nodejs", "perl", "php", "python", "ruby"])
            && !file.starts_with('-')
        {
            return self.script(file);
        }
        let is_asked_about =
            rest.len() == 1 && matches!(first, Some("--help" | "--version" | "-h" | "-v" | "-V"));
        let code_flags: &[&str] = match () {
            () if is(&["python", "pypy"]) => &["-c"],
            () if is(&["node", "nodejs", "bun", "deno"]) => &["-e", "--eval", "-p", "--print"],
            () if is(&["perl"]) => &["-e", "-E"],
            () if is(&["php"]) => &["-r"],
            () if is(&["ruby", "lua", "r", "rscript", "osascript", "raku"]) => &["-e"],
            () => &[],
        };
        let says_its_code = first.is_some_and(|first| code_flags.contains(&first))
            || (is(&["awk", "gawk", "mawk", "nawk", "sed", "gsed"])
                && !has(&[
                    "-f",
                    "--file",
                    "-E",
                    "--exec",
                    "-i",
                    "--include",
                    "-l",
                    "--load",
                ])
                && rest.iter().any(|argument| !argument.starts_with('-')));
        let files: Vec<&String> = rest
            .iter()
            .filter(|argument| !argument.starts_with('-') && self.cwd.join(argument).is_file())
            .collect();
        if is_asked_about || says_its_code {
            files.into_iter().try_for_each(|file| self.script(file))
        } else if let [only] = files.as_slice() {
            self.script(only)
        } else {
            Err(RUNTIME.to_owned())
        }
    }

    /// A program that runs what its words name: every file and program among them.
    fn runs_others(&mut self, word: &str, rest: &[String]) -> Result<(), String> {
        let is_carrier = allowlist::carries(word) || is_interpreter(word);
        if !is_carrier {
            return Ok(());
        }
        if word.ends_with("env")
            && rest.iter().any(|argument| {
                matches!(argument.as_str(), "-C" | "-S" | "-s")
                    || argument.starts_with("--chdir")
                    || argument.starts_with("--split-string")
            })
        {
            return Err(
                "SYSTEM_RUN_DENIED: approval cannot safely bind dispatch cwd options".to_owned(),
            );
        }
        for argument in rest.iter().filter(|argument| !argument.starts_with('-')) {
            if self.cwd.join(argument).is_file() {
                self.script(argument)?;
            } else if let Some(program) = resolve(argument, self.cwd, self.path) {
                self.program(&program)?;
            }
            // A shell or an interpreter within reads what comes after it.
            if is_shell(argument) || (is_interpreter(argument) && !is_interpreter(word)) {
                let at = rest.iter().position(|other| other == argument).unwrap_or(0);
                let inner = &rest[at + 1..];
                return match is_shell(argument) {
                    true => self.shell(inner, 1),
                    false => self.interpreter(argument, inner),
                };
            }
        }
        Ok(())
    }

    fn program(&mut self, program: &Program) -> Result<(), String> {
        let is_mutable = is_mutable(&program.path) || is_mutable(&program.real);
        self.bind(&program.path, &program.real, is_mutable)
    }

    fn script(&mut self, word: &str) -> Result<(), String> {
        let path = self.cwd.join(word);
        let Ok(real) = fs::canonicalize(&path) else {
            return Err(
                "SYSTEM_RUN_DENIED: approval requires an existing script operand".to_owned(),
            );
        };
        if !real.is_file() {
            return Err("SYSTEM_RUN_DENIED: approval requires a file script operand".to_owned());
        }
        self.bind(&path, &real, true)
    }

    fn bind(&mut self, path: &Path, real: &Path, is_mutable: bool) -> Result<(), String> {
        let unreadable =
            |_| "SYSTEM_RUN_DENIED: approval requires a readable script operand".to_owned();
        let meta = fs::metadata(real).map_err(unreadable)?;
        let sha256 = match is_mutable && meta.len() <= HASHED_BYTES_MAX {
            true => Some(hash(real).map_err(unreadable)?),
            false => None,
        };
        self.is_mutable |= is_mutable;
        self.files.push(Bound {
            path: path.to_owned(),
            real: real.to_owned(),
            inode: (meta.dev(), meta.ino()),
            sha256,
        });
        Ok(())
    }
}

fn hash(path: &Path) -> std::io::Result<String> {
    let mut file = File::open(path)?;
    let mut context = ring::digest::Context::new(&ring::digest::SHA256);
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let read = file.read(&mut buffer)?;
        if read == 0 {
            break;
        }
        context.update(&buffer[..read]);
    }
    let digest = context.finish();
    Ok(digest
        .as_ref()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect())
}

/// Whether we could put something else in its place.
fn is_mutable(path: &Path) -> bool {
    let ours = rustix::process::geteuid().as_raw();
    let can_change = |path: &Path| {
        rustix::fs::access(path, rustix::fs::Access::WRITE_OK).is_ok()
            || fs::metadata(path).is_ok_and(|meta| meta.uid() == ours)
    };
    let mut links = path.ancestors().filter(|part| part.is_symlink());
    can_change(path)
        || path.parent().is_some_and(can_change)
        || links.any(|link| link.parent().is_some_and(can_change))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn what_is_bound_must_stay_as_it_is() {
        let dir = tempfile::tempdir().expect("a directory");
        let cwd = dir.path().canonicalize().expect("a path");
        let write = |name: &str, text: &str| {
            let path = cwd.join(name);
            fs::write(&path, text).expect("written");
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("set");
        };
        for name in ["own", "sh", "python3", "env"] {
            write(name, "#!/bin/sh\n");
        }
        write("s.sh", "echo one\n");
        write("t.py", "1\n");
        let path = cwd.display().to_string();
        let bind = |line: &str| Binding::of(Plan::read(line).as_ref(), &cwd, &path);
        for line in [
            "own a b",
            "sh s.sh",
            "python3 t.py",
            "env own",
            "env sh s.sh",
            "sh -c 'own x'",
            "exec own",
            "python3 -c 1",
            "own; own",
            "sh",
        ] {
            let bound = bind(line).expect(line);
            assert!(bound.is_mutable, "{line}: these are ours");
            assert_eq!(
                bound.drift(Plan::read(line).as_ref(), &path),
                None,
                "{line}"
            );
        }
        for (line, words) in [
            ("own > x", "cannot safely bind this command"),
            ("nothing", "requires a resolved executable"),
            ("sh nothing.sh", "requires an existing script operand"),
            ("python3", "this interpreter/runtime command"),
            ("python3 -m x", "this interpreter/runtime command"),
            ("sh -i", "shell startup files"),
            ("sh -c 'own > x'", "this interpreter/runtime command"),
            ("cd x && own", "after cwd changes"),
            (". s.sh", "shell source operands"),
            ("ENV=x sh s.sh", "shell startup environment"),
            ("env -C / own", "dispatch cwd options"),
            ("env sh -i", "shell startup files"),
            ("./nothing", "this interpreter/runtime command"),
        ] {
            let why = bind(line).expect_err(line);
            assert!(why.contains(words), "{line}: {why}");
        }
        let drifts = |line: &str, name: &str| {
            let bound = bind(line).expect(line);
            write(name, "echo other\n");
            assert_eq!(
                bound.drift(Plan::read(line).as_ref(), &path),
                Some(CHANGED),
                "{line}"
            );
        };
        drifts("sh s.sh", "s.sh");
        drifts("own a", "own");
        drifts("env sh t.py", "t.py");
        let bound = bind("own a").expect("bound");
        let other = tempfile::tempdir_in(cwd.parent().expect("a parent")).expect("a directory");
        fs::rename(&cwd, other.path().join("moved")).expect("moved");
        fs::create_dir(&cwd).expect("made");
        assert_eq!(
            bound.drift(Plan::read("own a").as_ref(), &path),
            Some(CWD_CHANGED)
        );
    }
}
