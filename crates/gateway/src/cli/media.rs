//! `media`: images, and what recordings say of themselves, from the command line. Needs no configuration and no running
//! gateway.

use std::collections::HashSet;
use std::io::{IsTerminal as _, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use ::media::{Cancel, Fit, Format, Limits, Options, Target};
use anyhow::{Context as _, bail};
use serde_json::{Value, json};

use super::{complain, print};
use crate::media_facts::{self, Found};

/// Files of one folder argument; past it the argument is a mistake.
const FILES_MAX: usize = 100_000;
/// Wrong usage, as clap's own.
const EXIT_USAGE: u8 = 2;

#[derive(Debug, clap::Subcommand)]
pub(super) enum MediaCommand {
    /// What the headers say, of images kind, size, orientation, camera; of video and sound length, streams, codecs.
    Probe {
        /// Images, video and sound, or folders of them.
        #[arg(required = true)]
        files: Vec<PathBuf>,
        /// One JSON object a line.
        #[arg(long)]
        json: bool,
    },
    /// Make images fit into a box or a number of bytes.
    Fit {
        #[command(flatten)]
        to: Where,
        /// Longest side, pixels.
        #[arg(long, conflicts_with_all = ["width", "height"])]
        max: Option<u32>,
        #[arg(long)]
        width: Option<u32>,
        #[arg(long)]
        height: Option<u32>,
        /// Fill width × height and cut what is over.
        #[arg(
            long,
            requires = "width",
            requires = "height",
            conflicts_with = "exact"
        )]
        cover: bool,
        /// Fill width × height and give up the proportions.
        #[arg(long, requires = "width", requires = "height")]
        exact: bool,
        /// Also make small images larger.
        #[arg(long)]
        enlarge: bool,
        /// The result has at most this many bytes: quality, then size, give way.
        #[arg(long)]
        max_bytes: Option<usize>,
        /// jpeg, png, webp, gif, or auto for the smallest; without it as the source.
        #[arg(long)]
        format: Option<String>,
    },
    /// Write images as another kind.
    Convert {
        #[command(flatten)]
        to: Where,
        /// jpeg, png, webp, gif, or auto for the smallest; without it what the name after -o says.
        #[arg(long)]
        format: Option<String>,
        /// WebP without loss.
        #[arg(long)]
        lossless: bool,
    },
    /// Small square previews, cut to the middle.
    Thumbnail {
        #[command(flatten)]
        to: Where,
        /// Side, pixels.
        #[arg(long, default_value_t = 256)]
        size: u32,
        /// jpeg, png, webp, gif, or auto for the smallest; without it as the source.
        #[arg(long)]
        format: Option<String>,
    },
}

/// From where to where.
#[derive(Debug, clap::Args)]
pub(super) struct Where {
    /// Images, or folders of them.
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// A file, or for several images a folder.
    #[arg(short, long)]
    output: PathBuf,
    /// 1–100, for JPEG and WebP.
    #[arg(long, default_value_t = 85, value_parser = clap::value_parser!(u8).range(1..=100))]
    quality: u8,
    /// One JSON object a line.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(command: MediaCommand) -> ExitCode {
    let outcome = match command {
        MediaCommand::Probe { files, json } => probe(&files, json),
        MediaCommand::Fit {
            to,
            max,
            width,
            height,
            cover,
            exact,
            enlarge,
            max_bytes,
            format,
        } => {
            let fit = match (cover, exact) {
                (true, _) => Fit::Cover,
                (_, true) => Fit::Exact,
                _ => Fit::Inside,
            };
            let options = Options {
                max_width: max.or(width),
                max_height: max.or(height),
                fit,
                enlarge,
                max_bytes,
                ..Options::default()
            };
            convert(&to, options, format.as_deref())
        }
        MediaCommand::Convert {
            to,
            format,
            lossless,
        } => convert(
            &to,
            Options {
                lossless,
                ..Options::default()
            },
            format.as_deref(),
        ),
        MediaCommand::Thumbnail { to, size, format } => {
            let options = Options {
                max_width: Some(size),
                max_height: Some(size),
                fit: Fit::Cover,
                ..Options::default()
            };
            convert(&to, options, format.as_deref())
        }
    };
    outcome.unwrap_or_else(|error| {
        complain(&format!("{error:#}"));
        ExitCode::from(EXIT_USAGE)
    })
}

fn probe(arguments: &[PathBuf], json: bool) -> anyhow::Result<ExitCode> {
    let mut failed = false;
    for Source { file, .. } in sources(arguments, is_media)? {
        match found(&file) {
            Ok((found, bytes)) if json => {
                let mut shown = found.json(bytes);
                shown["file"] = file.to_string_lossy().into();
                print(&shown.to_string());
            }
            Ok((found, bytes)) => print(&format!("{}: {}", file.display(), found.line(bytes))),
            Err(error) => {
                failed = true;
                fail(&file, &error, json);
            }
        }
    }
    Ok(ExitCode::from(u8::from(failed)))
}

/// And how many bytes it has. A recording is read in place: it may be larger than memory.
fn found(file: &Path) -> anyhow::Result<(Found, u64)> {
    if media_facts::is_recording(&head(file)?) {
        let file = std::fs::File::open(file)?;
        let bytes = file.metadata()?.len();
        return Ok((Found::Recording(::media::record(file)?), bytes));
    }
    let data = read(file)?;
    let found = media_facts::find(&data, &Limits::default())?;
    Ok((found, data.len() as u64))
}

/// An image to read, and its name below the output folder.
struct Source {
    file: PathBuf,
    below: PathBuf,
}

/// `is_wanted`: which files of a folder.
fn sources(arguments: &[PathBuf], is_wanted: fn(&Path) -> bool) -> anyhow::Result<Vec<Source>> {
    let mut found = Vec::new();
    for argument in arguments {
        if !argument.is_dir() {
            let name = argument
                .file_name()
                .with_context(|| format!("{} names no file", argument.display()))?;
            found.push(Source {
                file: argument.clone(),
                below: name.into(),
            });
            continue;
        }
        let mut folders = vec![argument.clone()];
        while let Some(folder) = folders.pop() {
            let entries =
                std::fs::read_dir(&folder).with_context(|| format!("{}", folder.display()))?;
            for entry in entries {
                let entry = entry.with_context(|| format!("{}", folder.display()))?;
                let (kind, path) = (entry.file_type()?, entry.path());
                // Links are left out: they may lead in circles.
                if kind.is_dir() {
                    folders.push(path);
                } else if kind.is_file() && is_wanted(&path) {
                    let below = path.strip_prefix(argument).unwrap_or(&path).to_owned();
                    found.push(Source { file: path, below });
                }
                if found.len() > FILES_MAX {
                    bail!("more than {FILES_MAX} files under {}", argument.display());
                }
            }
        }
    }
    found.sort_by(|a, b| a.file.cmp(&b.file));
    Ok(found)
}

fn is_image(file: &Path) -> bool {
    head(file).is_ok_and(|head| Format::sniff(&head).is_ok())
}

fn is_media(file: &Path) -> bool {
    head(file).is_ok_and(|head| Format::sniff(&head).is_ok() || media_facts::is_recording(&head))
}

fn head(file: &Path) -> std::io::Result<Vec<u8>> {
    let mut head = Vec::new();
    let file = std::fs::File::open(file)?;
    file.take(media_facts::HEAD_BYTES as u64)
        .read_to_end(&mut head)?;
    Ok(head)
}

fn read(file: &Path) -> anyhow::Result<Vec<u8>> {
    let limit = Limits::default().bytes;
    let mut data = Vec::new();
    std::fs::File::open(file)?
        .take(limit + 1)
        .read_to_end(&mut data)?;
    Ok(data)
}

fn convert(to: &Where, mut options: Options, format: Option<&str>) -> anyhow::Result<ExitCode> {
    let sources = sources(&to.files, is_image)?;
    let folder = to.output.is_dir()
        || to.output.to_string_lossy().ends_with('/')
        || to.files.len() > 1
        || to.files.iter().any(|file| file.is_dir());
    let named = to
        .output
        .extension()
        .and_then(|e| Format::from_name(&e.to_string_lossy()));
    options.quality = to.quality;
    options.target = match format {
        Some("auto") => Target::Auto,
        Some(name) => match Format::from_name(name) {
            Some(kind) => Target::Format(kind),
            None => bail!("--format {name}: jpeg, png, webp, gif or auto"),
        },
        None => match named.filter(|_| !folder) {
            Some(kind) => Target::Format(kind),
            None => Target::Same,
        },
    };
    let mut names = HashSet::new();
    let mut clash = sources
        .iter()
        .filter(|source| !names.insert(source.below.with_extension("")));
    if let Some(twice) = clash.next().filter(|_| folder) {
        bail!(
            "two images would become {}: give them to separate calls",
            twice.below.display()
        );
    }

    let (next, done) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let failed = AtomicBool::new(false);
    let shown = sources.len() > 1 && !to.json && std::io::stderr().is_terminal();
    // One image a core: more would only hold more pixels at once.
    let threads = std::thread::available_parallelism()
        .map_or(1, usize::from)
        .min(sources.len());
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some(source) = sources.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let output = folder.then(|| to.output.join(&source.below));
                    match one(source, output.as_deref(), &to.output, &options) {
                        Ok(made) if to.json => print(&made.to_string()),
                        Ok(made) if !shown => print(&told(&made)),
                        Ok(_) => {}
                        Err(error) => {
                            failed.store(true, Ordering::Relaxed);
                            fail(&source.file, &error, to.json);
                        }
                    }
                    let done = done.fetch_add(1, Ordering::Relaxed) + 1;
                    if shown {
                        progress(done, sources.len());
                    }
                }
            });
        }
    });
    Ok(ExitCode::from(u8::from(failed.into_inner())))
}

/// `below`: where it goes in the output folder, before its extension is known.
fn one(
    source: &Source,
    below: Option<&Path>,
    output: &Path,
    options: &Options,
) -> anyhow::Result<Value> {
    let data = read(&source.file)?;
    let made = ::media::process(&data, options, &Limits::default(), &Cancel::default())?;
    let target = below.map_or_else(
        || output.to_owned(),
        |path| path.with_extension(made.format.extension()),
    );
    if std::fs::canonicalize(&target).ok() == Some(std::fs::canonicalize(&source.file)?) {
        bail!("the result would replace its source: choose another -o");
    }
    if let Some(folder) = target
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty())
    {
        std::fs::create_dir_all(folder).with_context(|| format!("{}", folder.display()))?;
    }
    // Whole or not at all, also if the disk is full.
    let name = target
        .file_name()
        .context("-o names no file")?
        .to_string_lossy();
    let part = target.with_file_name(format!(".{name}.{}.part", std::process::id()));
    std::fs::write(&part, &made.data)
        .and_then(|()| std::fs::rename(&part, &target))
        .with_context(|| format!("{}", target.display()))?;
    Ok(json!({
        "file": source.file.to_string_lossy(),
        "output": target.to_string_lossy(),
        "format": made.format.name(),
        "width": made.width,
        "height": made.height,
        "frames": made.frames,
        "quality": made.quality,
        "bytes": made.data.len(),
        "source_bytes": data.len(),
    }))
}

fn told(made: &Value) -> String {
    let text = |key: &str| made[key].as_str().unwrap_or_default().to_owned();
    format!(
        "{} → {}: {} {}×{}, {} → {} bytes",
        text("file"),
        text("output"),
        text("format"),
        made["width"],
        made["height"],
        made["source_bytes"],
        made["bytes"]
    )
}

fn fail(file: &Path, error: &anyhow::Error, json: bool) {
    if json {
        let code = error
            .downcast_ref::<::media::MediaError>()
            .map_or("io", ::media::MediaError::code);
        print(
            &json!({ "file": file.to_string_lossy(), "error": format!("{error:#}"), "code": code })
                .to_string(),
        );
    } else {
        complain(&format!("{}: {error:#}", file.display()));
    }
}

#[expect(clippy::let_underscore_must_use, reason = "nobody is left to tell")]
fn progress(done: usize, all: usize) {
    let filled = done * 30 / all.max(1);
    let end = if done == all { "\n" } else { "" };
    let bar = format!(
        "\r[{}{}] {done}/{all}{end}",
        "#".repeat(filled),
        "-".repeat(30 - filled)
    );
    let _ = std::io::stderr().write_all(bar.as_bytes());
}
