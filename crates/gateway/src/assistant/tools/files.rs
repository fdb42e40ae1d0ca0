//! `read`, `write`, `edit` and `ls`: names, parameters and words as the original's (src/agents/sessions/tools at
//! 2026.9.6).

use std::io::{Read as _, Write as _};
use std::path::Path;

use rustix::fs::{self, AtFlags, Mode, OFlags};
use serde_json::{Value, json};

use super::diff;
use super::root::{Root, Trouble};
use super::{Done, Why, refuse};

const LINES_MAX: usize = 2000;
pub(super) const BYTES_MAX: usize = 50 * 1024;
/// A larger file is not taken into memory.
const FILE_BYTES_MAX: u64 = 16 << 20;
const ENTRIES_DEFAULT: usize = 500;
const ENTRIES_MAX: usize = 100_000;

pub(super) fn read(root: &Root, args: &Value) -> Result<Done, Why> {
    let path = super::text(args, "path")?;
    let inside = root.inside(path).map_err(Why::Error)?;
    let bytes = match load(root, &inside) {
        Ok(bytes) => bytes,
        Err(Trouble::Os(error))
            if args["optional"] == true && error.kind() == std::io::ErrorKind::NotFound =>
        {
            return Ok(Done {
                text: format!("Optional file not found: {path}."),
                details: json!({ "kind": "not_found", "status": "not_found", "path": path, "optional": true }),
                kept: None,
            });
        }
        Err(trouble) => {
            let missing = matches!(&trouble, Trouble::Os(error) if error.kind() == std::io::ErrorKind::NotFound);
            let mut words = trouble.words("Read", &root.shown(&inside));
            let alike = if missing {
                alike(root, &inside)
            } else {
                Vec::new()
            };
            if !alike.is_empty() {
                words.push_str(&format!(" Did you mean: {}?", alike.join(", ")));
            }
            return refuse(words);
        }
    };
    if let Some(mime) = picture(&bytes) {
        let text = format!(
            "Read image file [{mime}]\n[Pictures in files are not shown to the model by this gateway; ask the user to attach it to a message.]"
        );
        let details = json!({ "kind": "image", "content": text, "mimeType": mime });
        return Ok(Done {
            text,
            details,
            kept: None,
        });
    }
    if bytes.iter().take(8192).any(|byte| *byte == 0) {
        return refuse(format!("{path} is not text ({} bytes)", bytes.len()));
    }
    let text = page(&String::from_utf8_lossy(&bytes), bytes.len(), args)?;
    Ok(Done {
        details: json!({ "kind": "text", "content": text }),
        text,
        kept: None,
    })
}

/// Up to three names in the same folder that differ from the one asked for in at most 40 % of its letters, the nearest
/// first; the original's rule.
fn alike(root: &Root, inside: &Path) -> Vec<String> {
    let (Some(asked), Some(folder)) = (inside.file_name(), inside.parent()) else {
        return Vec::new();
    };
    let asked = asked.to_string_lossy();
    let lower = asked.to_lowercase();
    let most = (lower.chars().count() * 2 / 5).max(1);
    let mut found: Vec<(usize, String)> = names(root, folder)
        .unwrap_or_default()
        .into_iter()
        .map(|(name, _)| (strsim::levenshtein(&lower, &name.to_lowercase()), name))
        .filter(|(distance, name)| *distance <= most && *name != asked)
        .collect();
    found.sort();
    found.truncate(3);
    found.into_iter().map(|(_, name)| name).collect()
}

fn load(root: &Root, inside: &Path) -> Result<Vec<u8>, Trouble> {
    let file = root.file(inside)?;
    if file.metadata()?.len() > FILE_BYTES_MAX {
        let limit = FILE_BYTES_MAX >> 20;
        return Err(std::io::Error::other(format!(
            "larger than {limit} MiB; search in it with grep"
        ))
        .into());
    }
    let mut bytes = Vec::new();
    file.take(FILE_BYTES_MAX).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The part of a text that was asked for, and how to go on.
fn page(text: &str, bytes: usize, args: &Value) -> Result<String, Why> {
    let whole = text
        .strip_prefix('\u{feff}')
        .unwrap_or(text)
        .replace("\r\n", "\n");
    let offset = super::count(args, "offset")?.unwrap_or(1);
    let cursor = super::count(args, "cursor")?.unwrap_or(0);
    if offset == 0 {
        return refuse("Offset must be an integer at least 1".to_owned());
    }
    let limit = super::count(args, "limit")?.map(|limit| limit.max(1));
    let lines: Vec<&str> = whole.split_inclusive('\n').collect();
    let total = lines.len();
    if total == 0 {
        return Ok(match bytes {
            0 => "File is empty (0 bytes).".to_owned(),
            bytes => format!("File contains no readable text ({bytes} bytes)."),
        });
    }
    if offset > total {
        return Ok(format!(
            "Offset {offset} is beyond end of file ({total} lines total). Retry with offset <= {total}."
        ));
    }
    let wanted = limit.unwrap_or(usize::MAX);
    let mut out = String::new();
    let mut next = offset;
    for (index, line) in lines
        .iter()
        .enumerate()
        .skip(offset - 1)
        .take(wanted.min(LINES_MAX))
    {
        let skip = if index + 1 == offset { cursor } else { 0 };
        let line = &line[line
            .char_indices()
            .nth(skip)
            .map_or(line.len(), |(at, _)| at)..];
        if out.len() + line.len() > BYTES_MAX {
            if out.is_empty() {
                // One line longer than a page is read in pieces.
                let mut end = BYTES_MAX;
                while !line.is_char_boundary(end) {
                    end -= 1;
                }
                let cursor = skip + line[..end].chars().count();
                return Ok(format!(
                    "{}\n\n[Showing part of line {offset} (50.0KB limit). Use read with offset={offset}, cursor={cursor} to continue.]",
                    &line[..end]
                ));
            }
            break;
        }
        out.push_str(line);
        next = index + 2;
    }
    if next > total {
        return Ok(out);
    }
    let out = out.strip_suffix('\n').unwrap_or(&out);
    let left = total - (next - 1);
    Ok(match limit {
        Some(limit) if next - offset >= limit => {
            let plural = if left == 1 { "" } else { "s" };
            format!("{out}\n\n[{left} more line{plural} in file. Use offset={next} to continue.]")
        }
        _ => format!(
            "{out}\n\n[Showing lines {offset}-{} of {total} (50.0KB limit). Use offset={next} to continue.]",
            next - 1
        ),
    })
}

fn picture(bytes: &[u8]) -> Option<&'static str> {
    match bytes {
        [0x89, b'P', b'N', b'G', ..] => Some("image/png"),
        [0xff, 0xd8, 0xff, ..] => Some("image/jpeg"),
        [b'G', b'I', b'F', b'8', ..] => Some("image/gif"),
        [
            b'R',
            b'I',
            b'F',
            b'F',
            _,
            _,
            _,
            _,
            b'W',
            b'E',
            b'B',
            b'P',
            ..,
        ] => Some("image/webp"),
        _ => None,
    }
}

pub(super) fn write(root: &Root, args: &Value) -> Result<Done, Why> {
    let path = super::text(args, "path")?;
    let content = args["content"].as_str().ok_or_else(|| {
        Why::Arguments("content: must have required properties content".to_owned())
    })?;
    let inside = root.inside(path).map_err(Why::Error)?;
    let before = match load(root, &inside) {
        Ok(bytes) => Some(bytes),
        Err(Trouble::Os(error)) if error.kind() == std::io::ErrorKind::NotFound => None,
        Err(trouble) => return refuse(trouble.words("Write", &root.shown(&inside))),
    };
    if before.as_deref() == Some(content.as_bytes()) {
        return Ok(unchanged(format!(
            "No changes made to {path}. The file already has identical content."
        )));
    }
    replace(root, &inside, content.as_bytes())
        .map_err(|trouble| Why::Error(trouble.words("Write", &root.shown(&inside))))?;
    let old = before.as_deref().map(String::from_utf8_lossy);
    let changed = diff::of(path, old.as_deref().unwrap_or_default(), content);
    let mut kept = json!({ "changed": true });
    if before.is_none() {
        kept["created"] = json!(true);
    }
    Ok(changed_file(
        format!("Successfully wrote {} bytes to {path}", content.len()),
        kept,
        changed,
    ))
}

pub(super) fn edit(root: &Root, args: &Value) -> Result<Done, Why> {
    let path = super::text(args, "path")?;
    let edits = edits_of(args)?;
    let inside = root.inside(path).map_err(Why::Error)?;
    let bytes = load(root, &inside).map_err(|trouble| {
        Why::Error(format!(
            "Could not edit file: {path}. {}",
            trouble.words("Edit", &root.shown(&inside))
        ))
    })?;
    let Ok(raw) = String::from_utf8(bytes) else {
        return refuse(format!("{path} is not UTF-8 text; edit changes text only"));
    };
    // Models write plain line ends; the file keeps its own.
    let is_dos = raw.contains("\r\n") && raw.matches('\n').count() == raw.matches("\r\n").count();
    let before = if is_dos {
        raw.replace("\r\n", "\n")
    } else {
        raw.clone()
    };
    let after = match apply(path, &before, &edits) {
        Ok(after) => after,
        Err(why) => return refuse(why),
    };
    if after == before {
        return Ok(unchanged(format!(
            "No changes made to {path}. The replacement produced identical content."
        )));
    }
    let stored = if is_dos {
        after.replace('\n', "\r\n")
    } else {
        after.clone()
    };
    replace(root, &inside, stored.as_bytes())
        .map_err(|trouble| Why::Error(trouble.words("Edit", &root.shown(&inside))))?;
    let text = format!("Successfully replaced {} block(s) in {path}.", edits.len());
    Ok(changed_file(
        text,
        json!({ "changed": true }),
        diff::of(path, &before, &after),
    ))
}

fn unchanged(text: String) -> Done {
    Done {
        text,
        details: json!({ "changed": false }),
        kept: Some(json!({ "changed": false })),
    }
}

/// The answer to a change: clients are shown the patch too, the conversation keeps the short form.
fn changed_file(text: String, mut kept: Value, diff: diff::Diff) -> Done {
    kept["diff"] = json!(diff.lines);
    let mut details = kept.clone();
    details["patch"] = json!(diff.patch);
    details["firstChangedLine"] = json!(diff.first_changed_line);
    Done {
        text,
        details,
        kept: Some(kept),
    }
}

fn edits_of(args: &Value) -> Result<Vec<(String, String)>, Why> {
    let bad = || {
        Why::Error(
            "Edit tool input is invalid. edits must contain at least one replacement.".to_owned(),
        )
    };
    let one = |edit: &Value| {
        Some((
            edit["oldText"].as_str()?.replace("\r\n", "\n"),
            edit["newText"].as_str()?.replace("\r\n", "\n"),
        ))
    };
    // Some models write the list as text, or a single edit without a list.
    let parsed: Option<Value> = args["edits"]
        .as_str()
        .and_then(|text| serde_json::from_str(text).ok());
    let listed = parsed.as_ref().unwrap_or(&args["edits"]).as_array();
    let edits: Option<Vec<_>> = match listed {
        Some(listed) => listed.iter().map(one).collect(),
        None => one(args).map(|edit| vec![edit]),
    };
    edits.filter(|edits| !edits.is_empty()).ok_or_else(bad)
}

/// All edits against the same text; each must be found once, and none may touch another.
fn apply(path: &str, before: &str, edits: &[(String, String)]) -> Result<String, String> {
    let many = edits.len() > 1;
    let mut spans = Vec::new();
    for (index, (old, new)) in edits.iter().enumerate() {
        let found: Vec<usize> = match old.is_empty() {
            true => Vec::new(),
            false => before
                .match_indices(old.as_str())
                .map(|(at, _)| at)
                .take(1000)
                .collect(),
        };
        match (found.as_slice(), many) {
            _ if old.is_empty() && many => {
                return Err(format!(
                    "edits[{index}].oldText must not be empty in {path}."
                ));
            }
            _ if old.is_empty() => return Err(format!("oldText must not be empty in {path}.")),
            ([at], _) => spans.push((*at, *at + old.len(), new.as_str(), index)),
            ([], _) => {
                let which = if many {
                    format!("Could not find edits[{index}]")
                } else {
                    "Could not find the exact text".to_owned()
                };
                let shown: String = before.chars().take(800).collect();
                return Err(format!(
                    "{which} in {path}. The old text must match exactly including all whitespace and newlines.\nCurrent file contents:\n{shown}"
                ));
            }
            (found, true) => {
                return Err(format!(
                    "Found {} occurrences of edits[{index}] in {path}. Each oldText must be unique. Please provide more context to make it unique.",
                    found.len()
                ));
            }
            (found, false) => {
                return Err(format!(
                    "Found {} occurrences of the text in {path}. The text must be unique. Please provide more context to make it unique.",
                    found.len()
                ));
            }
        }
    }
    spans.sort_unstable_by_key(|span| span.0);
    if let Some(pair) = spans.windows(2).find(|pair| pair[0].1 > pair[1].0) {
        return Err(format!(
            "edits[{}] and edits[{}] overlap in {path}. Merge them into one edit or target disjoint regions.",
            pair[0].3, pair[1].3
        ));
    }
    let mut after = String::with_capacity(before.len());
    let mut from = 0;
    for (start, end, new, _) in spans {
        after.push_str(&before[from..start]);
        after.push_str(new);
        from = end;
    }
    after.push_str(&before[from..]);
    Ok(after)
}

/// Puts a whole new file in place of the old one, or leaves the old one as it was.
fn replace(root: &Root, inside: &Path, content: &[u8]) -> Result<(), Trouble> {
    let (folder, name) = root.folder_for(inside)?;
    let mode = match fs::statat(&folder, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => match fs::FileType::from_raw_mode(stat.st_mode) {
            fs::FileType::RegularFile => Mode::from_raw_mode(stat.st_mode & 0o777),
            fs::FileType::Directory => return Err(Trouble::Folder),
            fs::FileType::Symlink => {
                return Err(std::io::Error::other(
                    "is a link; write to the file that it points to",
                )
                .into());
            }
            _ => return Err(Trouble::Special),
        },
        Err(rustix::io::Errno::NOENT) => Mode::from_raw_mode(0o644),
        Err(error) => return Err(error.into()),
    };
    let fresh = format!(".{}.openclaw-new", uuid::Uuid::new_v4());
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut file = std::fs::File::from(fs::openat(&folder, fresh.as_str(), flags, mode)?);
    let written = file
        .write_all(content)
        .and_then(|()| file.sync_all())
        .and_then(|()| Ok(fs::renameat(&folder, fresh.as_str(), &folder, name)?));
    if let Err(error) = written {
        if let Err(error) = fs::unlinkat(&folder, fresh.as_str(), AtFlags::empty()) {
            tracing::warn!(file = fresh, %error, "half a file was left in a workspace");
        }
        return Err(error.into());
    }
    Ok(())
}

pub(super) fn ls(root: &Root, args: &Value) -> Result<Done, Why> {
    let path = args["path"].as_str().unwrap_or(".");
    let inside = root.inside(path).map_err(Why::Error)?;
    let limit = super::count(args, "limit")?
        .unwrap_or(ENTRIES_DEFAULT)
        .max(1);
    let after = args["after"].as_str().unwrap_or_default();
    let names = names(root, &inside)
        .map_err(|trouble| Why::Error(trouble.words("List", &root.shown(&inside))))?;
    let rest: Vec<&(String, bool)> = names
        .iter()
        .filter(|(name, _)| name.as_str() > after)
        .collect();
    let mut out = String::new();
    let mut last = None;
    for (shown, (name, is_dir)) in rest.iter().enumerate() {
        let line = json!(format!("{name}{}", if *is_dir { "/" } else { "" })).to_string();
        if shown >= limit || out.len() + line.len() > BYTES_MAX - 512 {
            break;
        }
        if !out.is_empty() {
            out.push('\n');
        }
        out.push_str(&line);
        last = Some((shown + 1, name));
    }
    let mut details = json!({});
    match last {
        None => out.push_str("(empty directory)"),
        Some((shown, name)) if shown < rest.len() => {
            out.push_str(&format!(
                "\n\n[More entries. Use after={} to continue.]",
                json!(name)
            ));
            details["nextAfter"] = json!(name);
        }
        Some(_) => {}
    }
    details["content"] = json!(out);
    Ok(Done {
        text: out,
        details,
        kept: None,
    })
}

/// Names in a folder, in the order of their bytes, and which are folders.
fn names(root: &Root, inside: &Path) -> Result<Vec<(String, bool)>, Trouble> {
    let folder = root.open_in(inside, OFlags::RDONLY | OFlags::DIRECTORY)?;
    let mut names = Vec::new();
    for entry in fs::Dir::read_from(&folder)?.take(ENTRIES_MAX) {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name != "." && name != ".." {
            names.push((name, entry.file_type() == fs::FileType::Directory));
        }
    }
    names.sort_unstable();
    Ok(names)
}

#[cfg(test)]
mod tests;
