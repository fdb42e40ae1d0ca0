//! `backup create|verify|restore`: our own state in a folder, made while the gateway runs, and put back in one step.
//!
//! OpenClaw's state is its own affair (`openclaw backup`): its databases are never opened here.

use std::fs::{self, File};
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, ensure};
use clap::Subcommand;
use ring::digest::{Context as Digest, SHA256};
use rustix::fs::{CWD, RenameFlags, renameat_with};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::print;
use super::run::lock_state;
use super::target::environment;
use crate::clock;
use crate::config::{Paths, create_private_dir, replace_private};

#[derive(Debug, Subcommand)]
pub(super) enum BackupCommand {
    /// Write a backup; the gateway may run meanwhile.
    Create {
        /// The folder to make; it must not exist yet.
        folder: Option<PathBuf>,
        #[arg(long)]
        json: bool,
    },
    /// Read a whole backup and check every file of it.
    Verify {
        folder: PathBuf,
        #[arg(long)]
        json: bool,
    },
    /// Put a backup in place of the state; the gateway must not run. What was there is kept beside it.
    Restore {
        folder: PathBuf,
        /// Check, and say what would be done.
        #[arg(long)]
        dry_run: bool,
        /// Send what had not been sent when the backup was made, though the gateway may have sent it since.
        #[arg(long)]
        resend: bool,
        #[arg(long)]
        json: bool,
    },
}

const MANIFEST: &str = "manifest.json";
const FORMAT: u32 = 1;
/// Our directory in a backup.
const OWN: &str = "openclaw-rs";
const MESSAGES: &str = "messages.db";
const MEMORIES: &str = "memory.sqlite";
/// A state directory has a dozen files and what waits to be sent; far more is a mistake.
const FILES_MAX: usize = 100_000;
const DEPTH_MAX: usize = 8;

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Manifest {
    format: u32,
    created_ms: u64,
    /// The release that wrote it.
    gateway: String,
    state_dir: PathBuf,
    files: Vec<Entry>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    /// Within the backup, with `/`.
    path: String,
    bytes: u64,
    sha256: String,
    /// Of a database.
    #[serde(skip_serializing_if = "Option::is_none")]
    schema: Option<i64>,
}

pub(super) fn run(profile: Option<&str>, command: &BackupCommand) -> anyhow::Result<ExitCode> {
    let (_env, paths) = environment(profile)?;
    match command {
        BackupCommand::Create { folder, json } => {
            let folder = folder.clone().unwrap_or_else(|| {
                PathBuf::from(format!("openclaw-rs-backup-{}", clock::now_ms() / 1000))
            });
            let manifest = create(&paths, &folder)?;
            show(&folder, &manifest, *json, "written");
        }
        BackupCommand::Verify { folder, json } => {
            let manifest = verify(folder)?;
            show(folder, &manifest, *json, "whole");
        }
        BackupCommand::Restore {
            folder,
            dry_run,
            resend,
            json,
        } => restore(&paths, folder, *dry_run, *resend, *json)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn show(folder: &Path, manifest: &Manifest, json: bool, word: &str) {
    let bytes: u64 = manifest.files.iter().map(|file| file.bytes).sum();
    if json {
        let mut out = json!(manifest);
        out["folder"] = json!(folder);
        out["bytes"] = json!(bytes);
        print(&format!("{out:#}"));
        return;
    }
    print(&format!(
        "{}: {word}, {} files, {:.1} MB, made by {} from {}",
        folder.display(),
        manifest.files.len(),
        bytes as f64 / 1e6,
        manifest.gateway,
        manifest.state_dir.display()
    ));
}

fn create(paths: &Paths, folder: &Path) -> anyhow::Result<Manifest> {
    ensure!(
        !folder.exists(),
        "{} exists; name another folder",
        folder.display()
    );
    ensure!(
        paths.own_dir.is_dir(),
        "{}: there is no state of this gateway to back up; set OPENCLAW_STATE_DIR or --profile to where it is",
        paths.own_dir.display()
    );
    let name = folder.file_name().context("the folder needs a name")?;
    let stage = folder.with_file_name(format!("{}.unfinished", name.to_string_lossy()));
    discard(&stage)?;
    let mut found = Vec::new();
    walk(&paths.own_dir, Path::new(""), &mut found)?;
    let made = fill(paths, folder, &stage, found);
    if made.is_err() {
        // What there is of it is none, and a full disk needs the room.
        discard(&stage)?;
    }
    made.with_context(|| format!("{}: no backup was made", folder.display()))
}

fn fill(
    paths: &Paths,
    folder: &Path,
    stage: &Path,
    mut found: Vec<PathBuf>,
) -> anyhow::Result<Manifest> {
    // Databases first: what they say is still to be sent has its files after that.
    found.sort_by_key(|file| (!is_database(&paths.own_dir.join(file)), file.clone()));
    create_private_dir(stage).with_context(|| cannot("be made", stage))?;
    let mut files = Vec::new();
    let mut keep = |from: &Path, to: &str| -> anyhow::Result<()> {
        let place = stage.join(to);
        if let Some(parent) = place.parent() {
            create_private_dir(parent).with_context(|| cannot("be made", parent))?;
        }
        if is_database(from) {
            store::backup::copy(from, &place)?;
        } else if !copy_file(from, &place)? {
            return Ok(());
        }
        files.push(entry(stage, to)?);
        Ok(())
    };
    for file in &found {
        keep(
            &paths.own_dir.join(file),
            &format!("{OWN}/{}", slashed(file)?),
        )?;
    }
    if paths.config_file.is_file() {
        keep(&paths.config_file, "openclaw.json")?;
    }
    let manifest = Manifest {
        format: FORMAT,
        created_ms: clock::now_ms(),
        gateway: env!("CARGO_PKG_VERSION").to_owned(),
        state_dir: paths.state_dir.clone(),
        files,
    };
    let text = serde_json::to_vec_pretty(&manifest)?;
    replace_private(&stage.join(MANIFEST), &text)
        .with_context(|| cannot("be written", &stage.join(MANIFEST)))?;
    fs::rename(stage, folder).with_context(|| cannot("be made", folder))?;
    Ok(manifest)
}

/// Regular files under our directory that can't be made again from others. Locks, indexes, logs of databases and links
/// are none.
fn walk(root: &Path, inside: &Path, found: &mut Vec<PathBuf>) -> anyhow::Result<()> {
    let folder = root.join(inside);
    let depth = inside.components().count();
    for entry in fs::read_dir(&folder).with_context(|| cannot("be read", &folder))? {
        let entry = entry.with_context(|| cannot("be read", &folder))?;
        let (name, kind) = (entry.file_name(), entry.file_type()?);
        let shown = name.to_string_lossy();
        let derived = [".lock", "-wal", "-shm", ".index", ".new", ".tmp"];
        if derived.iter().any(|end| shown.ends_with(end)) || shown.contains(".schema-") {
            continue;
        }
        let path = inside.join(&name);
        if kind.is_dir() && depth < DEPTH_MAX {
            walk(root, &path, found)?;
        } else if kind.is_file() {
            found.push(path);
        }
        ensure!(
            found.len() <= FILES_MAX,
            "{}: more than {FILES_MAX} files",
            root.display()
        );
    }
    Ok(())
}

fn slashed(path: &Path) -> anyhow::Result<&str> {
    path.to_str()
        .with_context(|| format!("{}: its name is not UTF-8", path.display()))
}

fn is_database(file: &Path) -> bool {
    let mut start = [0; 16];
    File::open(file)
        .and_then(|mut file| file.read_exact(&mut start))
        .is_ok_and(|()| start == *b"SQLite format 3\0")
}

/// False when it is gone: an attachment that was sent meanwhile.
fn copy_file(from: &Path, to: &Path) -> anyhow::Result<bool> {
    let bytes = match fs::read(from) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error).with_context(|| cannot("be read", from)),
    };
    replace_private(to, &bytes).with_context(|| cannot("be written", to))?;
    Ok(true)
}

fn entry(root: &Path, path: &str) -> anyhow::Result<Entry> {
    let file = root.join(path);
    let (bytes, sha256) = fingerprint(&file)?;
    let schema = match known_schema(path) {
        Some(known) => Some(store::backup::check(&file, known)?),
        None => None,
    };
    Ok(Entry {
        path: path.to_owned(),
        bytes,
        sha256,
        schema,
    })
}

/// The newest schema of that database which this release can read; `None`: not one of ours.
fn known_schema(path: &str) -> Option<i64> {
    match path.strip_prefix(OWN)?.strip_prefix('/')? {
        MESSAGES => Some(store::SCHEMA),
        MEMORIES => Some(memory::SCHEMA),
        _ => None,
    }
}

fn fingerprint(file: &Path) -> anyhow::Result<(u64, String)> {
    let mut open = File::open(file).with_context(|| cannot("be read", file))?;
    let (mut digest, mut bytes) = (Digest::new(&SHA256), 0);
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let read = open
            .read(&mut buffer)
            .with_context(|| cannot("be read", file))?;
        if read == 0 {
            break;
        }
        bytes += read as u64;
        digest.update(&buffer[..read]);
    }
    let hex: String = digest
        .finish()
        .as_ref()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    Ok((bytes, hex))
}

/// # Errors
/// The first file that is missing, altered or can't be read by this release.
fn verify(folder: &Path) -> anyhow::Result<Manifest> {
    let file = folder.join(MANIFEST);
    let text = fs::read(&file).with_context(|| {
        format!(
            "{}: not a backup, or not a finished one: {MANIFEST} can't be read",
            folder.display()
        )
    })?;
    let manifest: Manifest = serde_json::from_slice(&text)
        .with_context(|| format!("{}: not a manifest of a backup", file.display()))?;
    ensure!(
        manifest.format <= FORMAT,
        "{}: format {} was made by a newer release ({}); this one knows {FORMAT}",
        file.display(),
        manifest.format,
        manifest.gateway
    );
    for expected in &manifest.files {
        let safe = Path::new(&expected.path)
            .components()
            .all(|part| matches!(part, std::path::Component::Normal(_)));
        ensure!(
            safe,
            "{}: {:?} leads out of the backup",
            file.display(),
            expected.path
        );
        let place = folder.join(&expected.path);
        let (bytes, sha256) = fingerprint(&place)?;
        ensure!(
            (bytes, &sha256) == (expected.bytes, &expected.sha256),
            "{}: damaged: {bytes} bytes with SHA-256 {sha256}, written were {} with {}; take another backup",
            place.display(),
            expected.bytes,
            expected.sha256
        );
        if let Some(known) = known_schema(&expected.path) {
            store::backup::check(&place, known)?;
        }
    }
    Ok(manifest)
}

fn restore(
    paths: &Paths,
    folder: &Path,
    dry_run: bool,
    resend: bool,
    json: bool,
) -> anyhow::Result<()> {
    let manifest = verify(folder)?;
    // Held to the end: no gateway starts on what is being replaced.
    let _running = match paths.own_dir.is_dir() {
        true => Some(lock_state(&paths.own_dir).map_err(anyhow::Error::msg)?),
        false => None,
    };
    let config = Config::of(paths, folder, &manifest)?;
    if dry_run {
        let there = match paths.own_dir.is_dir() {
            true => "would be kept beside it",
            false => "there is none now",
        };
        print(&format!(
            "{}: whole, {} files\n{} would be replaced; {there}\n{}",
            folder.display(),
            manifest.files.len(),
            paths.own_dir.display(),
            config.words(paths, folder)
        ));
        return Ok(());
    }
    let stage = paths.state_dir.join("openclaw-rs.restoring");
    discard(&stage)?;
    create_private_dir(&stage).with_context(|| cannot("be made", &stage))?;
    let _stage_lock = lock_state(&stage).map_err(anyhow::Error::msg)?;
    for file in &manifest.files {
        if let Some(inside) = file.path.strip_prefix("openclaw-rs/") {
            let place = stage.join(inside);
            if let Some(parent) = place.parent() {
                create_private_dir(parent).with_context(|| cannot("be made", parent))?;
            }
            ensure!(
                copy_file(&folder.join(&file.path), &place)?,
                "{}: vanished",
                folder.join(&file.path).display()
            );
        }
    }
    let messages = stage.join(MESSAGES);
    let held = match messages.exists() && !resend {
        true => {
            let why = "restored from a backup: it may have been sent since";
            store::backup::hold(&messages, why, clock::now_ms().cast_signed())?
        }
        false => store::backup::Held::default(),
    };
    let aside = put_in_place(paths, &stage)?;
    config.write(paths, folder)?;
    if json {
        print(&format!(
            "{:#}",
            json!({
                "restored": paths.own_dir, "from": folder, "files": manifest.files.len(), "aside": aside,
                "heldOutbound": held.outbound, "heldInbound": held.inbound, "config": config.as_str(),
            })
        ));
        return Ok(());
    }
    let mut lines = vec![format!(
        "{}: restored, {} files",
        paths.own_dir.display(),
        manifest.files.len()
    )];
    if let Some(aside) = &aside {
        lines.push(format!("what was there is in {}", aside.display()));
    }
    if held.outbound > 0 {
        lines.push(format!(
            "{} messages had not been sent when it was made, and may have been since: they are in doubt. Services that know a repeat are sent them again; the others wait for you: `openclaw-gateway messages dead` shows them, `messages resend ID` sends one, `messages drop ID` forgets it",
            held.outbound
        ));
    }
    if held.inbound > 0 {
        lines.push(format!(
            "{} messages of people had not been answered, and may have been since: `messages dead` shows them too",
            held.inbound
        ));
    }
    lines.push(config.words(paths, folder));
    print(&lines.join("\n"));
    Ok(())
}

/// The staged directory becomes ours, and ours is kept under another name: at no moment is there none.
fn put_in_place(paths: &Paths, stage: &Path) -> anyhow::Result<Option<PathBuf>> {
    let own = &paths.own_dir;
    if !own.exists() {
        fs::rename(stage, own).with_context(|| cannot("be made", own))?;
        return Ok(None);
    }
    let aside = paths
        .state_dir
        .join(format!("openclaw-rs.before-restore-{}", clock::now_ms()));
    match renameat_with(CWD, stage, CWD, own, RenameFlags::EXCHANGE) {
        Ok(()) => fs::rename(stage, &aside),
        // A file system without it: a crash between the two leaves both, under these names.
        Err(_) => fs::rename(own, &aside).and_then(|()| fs::rename(stage, own)),
    }
    .with_context(|| cannot("be replaced", own))?;
    Ok(Some(aside))
}

/// What becomes of `openclaw.json`: a person's file is never replaced.
enum Config {
    NotInBackup,
    Same,
    Kept,
    Missing,
}

impl Config {
    fn of(paths: &Paths, folder: &Path, manifest: &Manifest) -> anyhow::Result<Self> {
        if !manifest
            .files
            .iter()
            .any(|file| file.path == "openclaw.json")
        {
            return Ok(Self::NotInBackup);
        }
        if !paths.config_file.exists() {
            return Ok(Self::Missing);
        }
        let same = fingerprint(&paths.config_file)? == fingerprint(&folder.join("openclaw.json"))?;
        Ok(if same { Self::Same } else { Self::Kept })
    }

    fn as_str(&self) -> &'static str {
        match self {
            Self::NotInBackup => "not in the backup",
            Self::Same => "same",
            Self::Kept => "kept",
            Self::Missing => "restored",
        }
    }

    fn words(&self, paths: &Paths, folder: &Path) -> String {
        let file = paths.config_file.display();
        match self {
            Self::NotInBackup => "the backup has no openclaw.json".to_owned(),
            Self::Same => format!("{file} is the same as in the backup"),
            Self::Kept => format!(
                "{file} differs from the backup's and is kept; the other is {}",
                folder.join("openclaw.json").display()
            ),
            Self::Missing => format!("{file} was missing: it comes from the backup"),
        }
    }

    fn write(&self, paths: &Paths, folder: &Path) -> anyhow::Result<()> {
        if matches!(self, Self::Missing) {
            copy_file(&folder.join("openclaw.json"), &paths.config_file)?;
        }
        Ok(())
    }
}

fn discard(stage: &Path) -> anyhow::Result<()> {
    match fs::remove_dir_all(stage) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| cannot("be removed", stage))
        }
        _ => Ok(()),
    }
}

fn cannot(what: &str, path: &Path) -> String {
    format!("{}: cannot {what}", path.display())
}
