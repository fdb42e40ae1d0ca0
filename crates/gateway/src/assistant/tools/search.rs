//! `grep` and `find` in the workspace: the parameters and words of the original's session tools. Links are not
//! followed; `.git` and `node_modules` are left out; ignore files are not read.

use std::fs::File;
use std::io::Read as _;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use regex_lite::{Regex, RegexBuilder};
use rustix::fs::{Dir, FileType, OFlags};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::files::BYTES_MAX;
use super::root::{Root, beneath};
use super::{Done, Why, count, refuse, text};

const MATCHES_DEFAULT: usize = 100;
const FOUND_DEFAULT: usize = 1000;
const LINE_CHARS_MAX: usize = 500;
/// What is not looked into.
const LEFT_OUT: [&str; 2] = [".git", "node_modules"];
const DEPTH_MAX: usize = 48;
const ENTRIES_MAX: usize = 200_000;
const FILE_BYTES_MAX: u64 = 4 << 20;
const TIME_MAX: Duration = Duration::from_secs(20);
/// That one pattern for paths stands for.
const PATTERNS_MAX: usize = 100;

/// A walk through a folder, bounded.
struct Walk<'a> {
    cancel: &'a CancellationToken,
    until: Instant,
    left: usize,
    /// Why not everything was seen.
    cut: Option<&'static str>,
}

impl<'a> Walk<'a> {
    fn new(cancel: &'a CancellationToken) -> Self {
        Self {
            cancel,
            until: Instant::now() + TIME_MAX,
            left: ENTRIES_MAX,
            cut: None,
        }
    }

    /// Whether to stop, and why.
    fn is_over(&mut self) -> bool {
        if self.cancel.is_cancelled() {
            self.cut = Some("stopped");
        } else if Instant::now() > self.until {
            self.cut = Some("the time for one search was over; name a smaller path");
        } else if self.left == 0 {
            self.cut = Some("there are too many files; name a smaller path");
        }
        self.cut.is_some()
    }

    /// Names files and folders in order; `visit` says whether to go on.
    fn through(
        &mut self,
        folder: &OwnedFd,
        path: &Path,
        depth: usize,
        visit: &mut dyn FnMut(&OwnedFd, &Path, &Path, bool) -> bool,
    ) -> bool {
        let mut names: Vec<(PathBuf, FileType)> = Vec::new();
        let Ok(entries) = Dir::read_from(folder) else {
            return true;
        };
        for entry in entries.flatten() {
            if self.left == 0 {
                break;
            }
            self.left -= 1;
            let name = entry.file_name().to_string_lossy().into_owned();
            if name != "." && name != ".." && !LEFT_OUT.contains(&name.as_str()) {
                names.push((PathBuf::from(name), entry.file_type()));
            }
        }
        names.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        for (name, kind) in names {
            if self.is_over() {
                return false;
            }
            let is_dir = kind == FileType::Directory;
            let inner = path.join(&name);
            if (is_dir || kind == FileType::RegularFile) && !visit(folder, &name, &inner, is_dir) {
                return false;
            }
            if is_dir
                && depth < DEPTH_MAX
                && let Ok(folder) = beneath(
                    folder.as_fd(),
                    &name,
                    OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW,
                )
                && !self.through(&folder, &inner, depth + 1, visit)
            {
                return false;
            }
        }
        true
    }
}

pub(super) fn grep(root: &Root, args: &Value, cancel: &CancellationToken) -> Result<Done, Why> {
    let pattern = text(args, "pattern")?;
    let asked = args["path"].as_str().unwrap_or(".");
    let inside = root.inside(asked).map_err(Why::Error)?;
    let pattern = match args["literal"] == true {
        true => regex_lite::escape(pattern),
        false => pattern.to_owned(),
    };
    let regex = RegexBuilder::new(&pattern)
        .case_insensitive(args["ignoreCase"] == true)
        .size_limit(1 << 20)
        .build()
        .map_err(|error| {
            Why::Error(format!(
                "pattern: {error}; set literal to search for it as it is"
            ))
        })?;
    let glob = match args["glob"].as_str() {
        Some(glob) => Some(Glob::new(glob)?),
        None => None,
    };
    let around = count(args, "context")?.unwrap_or(0).min(20);
    let limit = count(args, "limit")?
        .unwrap_or(MATCHES_DEFAULT)
        .clamp(1, 10_000);
    let mut hits = Hits {
        regex,
        around,
        limit,
        found: 0,
        out: String::new(),
        is_full: false,
    };
    let mut walk = Walk::new(cancel);
    if let Ok(file) = root.file(&inside) {
        let name = inside.file_name().map(Path::new).unwrap_or(&inside);
        hits.search(file, name);
    } else {
        let folder = open(root, &inside, asked)?;
        walk.through(
            &folder,
            Path::new(""),
            0,
            &mut |folder, name, path, is_dir| {
                if is_dir || glob.as_ref().is_some_and(|glob| !glob.matches(path)) {
                    return true;
                }
                let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW;
                match beneath(folder.as_fd(), name, flags) {
                    Ok(file) => hits.search(File::from(file), path),
                    Err(_gone_or_closed_to_us) => true,
                }
            },
        );
    }
    let mut notes = Vec::new();
    if hits.is_full {
        notes.push(match hits.found > limit {
            true => format!(
                "{limit} matches limit reached. Use limit={} for more, or refine pattern",
                limit * 2
            ),
            false => "50.0KB limit reached".to_owned(),
        });
    }
    notes.extend(walk.cut.map(str::to_owned));
    Ok(listed(hits.out, "No matches found", &notes))
}

struct Hits {
    regex: Regex,
    around: usize,
    limit: usize,
    found: usize,
    out: String,
    is_full: bool,
}

impl Hits {
    /// `false` when there is room for no more.
    fn search(&mut self, file: File, path: &Path) -> bool {
        let mut bytes = Vec::new();
        let fits = file
            .metadata()
            .is_ok_and(|meta| meta.is_file() && meta.len() <= FILE_BYTES_MAX);
        if !fits || file.take(FILE_BYTES_MAX).read_to_end(&mut bytes).is_err() {
            return true;
        }
        if bytes.iter().take(8192).any(|byte| *byte == 0) {
            return true;
        }
        let content = String::from_utf8_lossy(&bytes);
        let lines: Vec<&str> = content.lines().collect();
        for (index, line) in lines.iter().enumerate() {
            if !self.regex.is_match(line) {
                continue;
            }
            self.found += 1;
            if self.found > self.limit {
                self.is_full = true;
                return false;
            }
            let from = index.saturating_sub(self.around);
            let to = (index + self.around + 1).min(lines.len());
            for (at, line) in lines[from..to].iter().enumerate() {
                let mark = if from + at == index { ':' } else { '-' };
                let short: String = line.chars().take(LINE_CHARS_MAX).collect();
                let more = if short.len() < line.len() {
                    "... [truncated]"
                } else {
                    ""
                };
                let row = format!(
                    "{}{mark}{}{mark} {short}{more}\n",
                    path.display(),
                    from + at + 1
                );
                if self.out.len() + row.len() > BYTES_MAX {
                    self.is_full = true;
                    return false;
                }
                self.out.push_str(&row);
            }
        }
        true
    }
}

pub(super) fn find(root: &Root, args: &Value, cancel: &CancellationToken) -> Result<Done, Why> {
    let glob = Glob::new(text(args, "pattern")?)?;
    let asked = args["path"].as_str().unwrap_or(".");
    let inside = root.inside(asked).map_err(Why::Error)?;
    let limit = count(args, "limit")?
        .unwrap_or(FOUND_DEFAULT)
        .clamp(1, 10_000);
    let folder = open(root, &inside, asked)?;
    let mut out = String::new();
    let mut found = 0;
    let mut full = None;
    let mut walk = Walk::new(cancel);
    walk.through(&folder, Path::new(""), 0, &mut |_, _, path, is_dir| {
        if !glob.matches(path) {
            return true;
        }
        found += 1;
        let row = format!("{}{}\n", path.display(), if is_dir { "/" } else { "" });
        if found > limit {
            full = Some(format!(
                "{limit} results limit reached. Use limit={} for more, or refine pattern",
                limit * 2
            ));
        } else if out.len() + row.len() > BYTES_MAX {
            full = Some("50.0KB limit reached".to_owned());
        } else {
            out.push_str(&row);
        }
        full.is_none()
    });
    let notes: Vec<String> = full
        .into_iter()
        .chain(walk.cut.map(str::to_owned))
        .collect();
    Ok(listed(out, "No files found matching pattern", &notes))
}

fn open(root: &Root, inside: &Path, asked: &str) -> Result<OwnedFd, Why> {
    match root.open_in(inside, OFlags::RDONLY | OFlags::DIRECTORY) {
        Ok(folder) => Ok(folder),
        Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => {
            refuse(format!("Path not found: {}", root.shown(inside)))
        }
        Err(error) => refuse(super::root::Trouble::from(error).words("Search", asked)),
    }
}

fn listed(mut out: String, none: &str, notes: &[String]) -> Done {
    out.truncate(out.trim_end().len());
    if out.is_empty() {
        out.push_str(none);
    }
    if !notes.is_empty() {
        out.push_str(&format!("\n\n[{}]", notes.join(". ")));
    }
    Done {
        details: json!({ "content": out }),
        text: out,
        kept: None,
    }
}

/// A pattern for paths: `*`, `?`, `**`, `[…]`, `{a,b}`. Without a slash it means names at any depth.
struct Glob {
    regex: Regex,
    of_names: bool,
}

impl Glob {
    fn new(glob: &str) -> Result<Self, Why> {
        let bad = |error: &dyn std::fmt::Display| {
            Why::Error(format!("not a file pattern: {glob}: {error}"))
        };
        let mut out = "^".to_owned();
        let mut open = 0;
        let mut chars = glob.trim_start_matches("./").chars().peekable();
        while let Some(char) = chars.next() {
            match char {
                '*' if chars.peek() == Some(&'*') => {
                    chars.next();
                    match chars.peek() {
                        Some('/') => {
                            chars.next();
                            out.push_str("(?:.*/)?");
                        }
                        _ => out.push_str(".*"),
                    }
                }
                '*' => out.push_str("[^/]*"),
                '?' => out.push_str("[^/]"),
                '[' => {
                    let class: String = chars.by_ref().take_while(|char| *char != ']').collect();
                    let class = class.replace('\\', "\\\\").replace('[', "\\[");
                    match class.strip_prefix('!') {
                        Some(class) => out.push_str(&format!("[^{class}]")),
                        None => out.push_str(&format!("[{class}]")),
                    }
                }
                '{' => {
                    open += 1;
                    out.push_str("(?:");
                }
                '}' if open > 0 => {
                    open -= 1;
                    out.push(')');
                }
                ',' if open > 0 => out.push('|'),
                other => out.push_str(&regex_lite::escape(other.encode_utf8(&mut [0; 4]))),
            }
        }
        out.push('$');
        let regex = RegexBuilder::new(&out)
            .size_limit(1 << 20)
            .build()
            .map_err(|error| bad(&error))?;
        Ok(Self {
            regex,
            of_names: !glob.contains('/'),
        })
    }

    fn matches(&self, path: &Path) -> bool {
        let path = match self.of_names {
            true => path.file_name().map(Path::new).unwrap_or(path),
            false => path,
        };
        self.regex.is_match(&path.to_string_lossy())
    }
}

/// A pattern for whole paths, whether it has a slash or not. Segments that begin with a dot are matched only by one that does
/// so too, and `**` means folders only as a whole segment. Source: Node's `path.posix.matchesGlob`.
pub(crate) struct PathGlob(Vec<Vec<Segment>>);

enum Segment {
    /// `**`
    Folders,
    One {
        regex: Regex,
        of_dots: bool,
    },
}

impl PathGlob {
    /// `None` for what is no pattern, or one for too many.
    pub(crate) fn new(glob: &str) -> Option<Self> {
        let mut plain = Vec::new();
        unbrace(glob.trim_start_matches("./"), &mut plain)?;
        let all = plain.iter().map(|glob| {
            let segments = glob.split('/').enumerate();
            let meant = segments.filter(|(at, segment)| *at == 0 || !segment.is_empty());
            meant
                .map(|(_, segment)| Segment::new(segment))
                .collect::<Option<Vec<_>>>()
        });
        Some(Self(all.collect::<Option<Vec<_>>>()?))
    }

    pub(crate) fn matches(&self, path: &str) -> bool {
        let names: Vec<&str> = path.split('/').collect();
        self.0.iter().any(|segments| {
            // Of how many names the segments so far can be what is matched.
            let mut reached = vec![false; names.len() + 1];
            reached[0] = true;
            for (at, segment) in segments.iter().enumerate() {
                let is_last = at + 1 == segments.len();
                let mut next = vec![false; names.len() + 1];
                for (count, name) in names.iter().enumerate() {
                    let is_dotted = name.starts_with('.');
                    match segment {
                        Segment::Folders => {
                            next[count] |= reached[count] && !is_last;
                            next[count + 1] = (reached[count] || next[count]) && !is_dotted;
                        }
                        Segment::One { regex, of_dots } => {
                            next[count + 1] =
                                reached[count] && (*of_dots || !is_dotted) && regex.is_match(name);
                        }
                    }
                }
                reached = next;
            }
            reached[names.len()]
        })
    }
}

impl Segment {
    fn new(segment: &str) -> Option<Self> {
        if segment == "**" {
            return Some(Self::Folders);
        }
        Some(Self::One {
            regex: Glob::new(segment).ok()?.regex,
            of_dots: segment.starts_with('.'),
        })
    }
}

/// The patterns that one with `{a,b}` stands for; `None` when they are too many.
fn unbrace(glob: &str, out: &mut Vec<String>) -> Option<()> {
    let (mut open, mut depth, mut commas) = (0, 0_usize, Vec::new());
    for (at, char) in glob.char_indices() {
        match char {
            '{' => {
                if depth == 0 {
                    (open, commas) = (at, vec![at]);
                }
                depth += 1;
            }
            ',' if depth == 1 => commas.push(at),
            '}' if depth == 1 => {
                commas.push(at);
                for pair in commas.windows(2) {
                    let part = &glob[pair[0] + 1..pair[1]];
                    unbrace(&format!("{}{part}{}", &glob[..open], &glob[at + 1..]), out)?;
                }
                return Some(());
            }
            '}' if depth > 1 => depth -= 1,
            _ => {}
        }
    }
    (out.len() < PATTERNS_MAX).then(|| out.push(glob.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_for_paths() {
        for (glob, path, expected) in [
            ("*.rs", "a/b.rs", true),
            ("*.rs", "a/b.rsx", false),
            ("src/*.rs", "src/b.rs", true),
            ("src/*.rs", "src/a/b.rs", false),
            ("**/*.md", "x.md", true),
            ("**/*.md", "a/b/x.md", true),
            ("a/**", "a/b/c", true),
            ("x.{md,txt}", "d/x.txt", true),
            ("[ab]?.c", "b1.c", true),
            ("[!ab]?.c", "b1.c", false),
            ("a+(b).c", "a+(b).c", true),
        ] {
            let glob = Glob::new(glob).expect("a pattern");
            assert_eq!(glob.matches(Path::new(path)), expected, "{path}");
        }
    }

    #[test]
    fn patterns_for_whole_paths() {
        for (glob, path, expected) in [
            ("*.md", "x.md", true),
            ("*.md", "a/x.md", false),
            ("*.md", ".x.md", false),
            (".*.md", ".x.md", true),
            ("?x.md", ".x.md", false),
            ("**/*.md", "x.md", true),
            ("**/*.md", "a/b/x.md", true),
            ("**/*.md", "a/.b/x.md", false),
            ("**/*.md", "a/.x.md", false),
            ("**/.b/*.md", "a/.b/x.md", true),
            ("a/**", "a/b/x.md", true),
            ("a/**", "a/.b/x.md", false),
            ("a/**", "a", false),
            ("a**/x.md", "ab/x.md", true),
            ("a**/x.md", "ab/c/x.md", false),
            ("{a/b,c}/*.{md,txt}", "a/b/x.md", true),
            ("{a/b,c}/*.{md,txt}", "c/x.txt", true),
            ("{a/b,c}/*.{md,txt}", "a/x.md", false),
            ("{.a,b}/x.md", ".a/x.md", true),
            ("a/**/b/**/x.md", "a/b/c/x.md", true),
        ] {
            let matcher = PathGlob::new(glob).expect("a pattern");
            assert_eq!(matcher.matches(path), expected, "{glob} {path}");
        }
        assert!(PathGlob::new(&"{a,b}".repeat(20)).is_none());
    }

    #[test]
    fn matches_have_their_lines_and_links_are_left_alone() {
        let dir = tempfile::tempdir().expect("a directory");
        let write = |path: &str, text: &str| {
            let path = dir.path().join(path);
            std::fs::create_dir_all(path.parent().expect("a folder")).expect("made");
            std::fs::write(path, text).expect("written");
        };
        write("a.md", "one\ntwo TWO\nthree\n");
        write("sub/b.txt", "two\n");
        write(".git/c", "two\n");
        write("bin", "two\0");
        std::os::unix::fs::symlink(dir.path(), dir.path().join("loop")).expect("linked");
        let root = Root::open(dir.path()).expect("open");
        let cancel = CancellationToken::new();
        let grep = |args: Value| match super::grep(&root, &args, &cancel) {
            Ok(done) => done.text,
            Err(
                Why::Error(why)
                | Why::Refused(why)
                | Why::Arguments(why)
                | Why::Unknown(why)
                | Why::Failed { text: why, .. },
            ) => why,
        };
        assert_eq!(
            grep(json!({ "pattern": "two" })),
            "a.md:2: two TWO\nsub/b.txt:1: two"
        );
        assert_eq!(
            grep(json!({ "pattern": "^TWO", "ignoreCase": true, "glob": "*.md", "context": 1 })),
            "a.md-1- one\na.md:2: two TWO\na.md-3- three"
        );
        assert_eq!(
            grep(json!({ "pattern": "two", "path": "sub/b.txt" })),
            "b.txt:1: two"
        );
        assert_eq!(
            grep(json!({ "pattern": "t", "limit": 1 })),
            "a.md:2: two TWO\n\n[1 matches limit reached. Use limit=2 for more, or refine pattern]"
        );
        assert!(grep(json!({ "pattern": "(" })).contains("set literal"));
        assert_eq!(
            grep(json!({ "pattern": "(", "literal": true })),
            "No matches found"
        );
        assert!(
            grep(json!({ "pattern": "two", "path": "loop" })).contains("Path not found")
                || grep(json!({ "pattern": "two", "path": "loop" })).contains("link")
        );
        assert!(
            grep(json!({ "pattern": "two", "path": ".." })).contains("outside of the workspace")
        );
        let found = match find(&root, &json!({ "pattern": "*" }), &cancel) {
            Ok(done) => done.text,
            Err(_) => panic!("refused"),
        };
        assert_eq!(found, "a.md\nbin\nsub/\nsub/b.txt");
        cancel.cancel();
        assert!(grep(json!({ "pattern": "two" })).contains("stopped"));
    }
}
