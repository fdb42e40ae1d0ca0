//! Pictures as their service shows them: made smaller where they are too large, else sent as files.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use channels::message::Attachment;
use channels::{Capabilities, Pictures, SendError};
use media::{Cancel, Format, Limits, Options};
use tokio::io::AsyncReadExt as _;
use tokio::sync::Semaphore;

/// Largest picture that is looked at, whatever the service takes.
pub(super) const PICTURE_BYTES_MAX: u64 = 50 * 1024 * 1024;
/// Four bytes each while one is worked on.
const PIXELS_MAX: u64 = 50_000_000;
/// As many as a decoder needs to know its own.
const HEAD_BYTES: u64 = 256;
const TIMEOUT: Duration = Duration::from_secs(60);

/// What is to be done with a picture.
#[derive(Debug, PartialEq, Eq)]
enum Plan {
    AsItIs,
    AsFile,
    /// Made to have no side above this and no more bytes than that.
    Smaller {
        side: u32,
        bytes: u64,
    },
}

/// What a decoder found in a file.
#[derive(Debug, Clone, Copy)]
struct Found {
    bytes: u64,
    width: u32,
    height: u32,
    frames: u32,
}

/// The file as the service takes it; `made`: where a smaller one is written.
///
/// # Errors
/// When it is larger than the service takes and can't be made smaller.
pub(super) async fn fit(
    mut file: Attachment,
    limits: &Capabilities,
    made: &Path,
    turn: &Arc<Semaphore>,
) -> Result<Attachment, SendError> {
    let bytes_max = limits.media_bytes_max;
    let bytes = file.bytes.unwrap_or(0);
    let too_large = |file: &Attachment| SendError::Rejected {
        reason: format!(
            "{} has {bytes} bytes, and this service takes {bytes_max}",
            file.name.as_deref().unwrap_or(&file.source)
        ),
    };
    let said = file.mime.as_deref().and_then(|mime| mime.split('/').next());
    let may_be_one = matches!(said, None | Some("image" | "application"))
        && !file.voice
        && (limits.pictures.is_some() || bytes > bytes_max);
    let is_one = may_be_one
        && is_picture(&file.source)
            .await
            .map_err(|error| SendError::Retry {
                after: None,
                reason: format!("{}: {error}", file.source),
            })?;
    if !is_one {
        return match bytes > bytes_max {
            true => Err(too_large(&file)),
            false => Ok(file),
        };
    }
    let (from, to) = (file.source.clone(), made.to_owned());
    let pictures = limits.pictures;
    let cancel = Cancel::default();
    // One at a time: each may take hundreds of megabytes, also one that nobody waits for any more.
    let turn = Arc::clone(turn).acquire_owned().await.ok();
    let work = tokio::task::spawn_blocking({
        let cancel = cancel.clone();
        move || {
            let outcome = fitted(Path::new(&from), &to, pictures, bytes_max, &cancel);
            drop(turn);
            outcome
        }
    });
    let outcome = match tokio::time::timeout(TIMEOUT, work).await {
        Ok(Ok(outcome)) => outcome,
        Ok(Err(error)) => Outcome::AsFile(error.to_string()),
        Err(_elapsed) => {
            cancel.cancel();
            Outcome::AsFile(format!("took longer than {TIMEOUT:?}"))
        }
    };
    match outcome {
        Outcome::NoPicture if bytes > bytes_max => Err(too_large(&file)),
        Outcome::NoPicture => Ok(file),
        Outcome::AsItIs(format) => {
            file.mime = Some(mime(format).to_owned());
            Ok(file)
        }
        Outcome::AsFile(why) if bytes > bytes_max => {
            tracing::info!(file = file.source, why, "a picture can't be made smaller");
            Err(too_large(&file))
        }
        Outcome::AsFile(why) => {
            tracing::debug!(file = file.source, why, "a picture is sent as a file");
            file.as_file = true;
            Ok(file)
        }
        Outcome::Made(format, bytes) => {
            file.source = made.display().to_string();
            file.mime = Some(mime(format).to_owned());
            file.bytes = Some(bytes);
            Ok(file)
        }
        Outcome::Disk(error) => Err(SendError::Retry {
            after: None,
            reason: format!("{}: {error}", made.display()),
        }),
    }
}

/// By its first bytes: whether it is one that can be made smaller.
async fn is_picture(path: &str) -> std::io::Result<bool> {
    let mut head = Vec::new();
    let file = tokio::fs::File::open(path).await?;
    file.take(HEAD_BYTES).read_to_end(&mut head).await?;
    Ok(picture(&head).is_some())
}

fn picture(data: &[u8]) -> Option<Format> {
    let format = Format::sniff(data).ok()?;
    matches!(format, Format::Jpeg | Format::Png | Format::WebP).then_some(format)
}

enum Outcome {
    NoPicture,
    AsItIs(Format),
    /// Why it is no picture to the service.
    AsFile(String),
    Made(Format, u64),
    Disk(std::io::Error),
}

fn fitted(
    from: &Path,
    to: &Path,
    pictures: Option<Pictures>,
    bytes_max: u64,
    cancel: &Cancel,
) -> Outcome {
    let data = match std::fs::read(from) {
        Ok(data) => data,
        Err(error) => return Outcome::Disk(error),
    };
    let Some(format) = picture(&data) else {
        return Outcome::NoPicture;
    };
    let limits = Limits {
        pixels: PIXELS_MAX,
        ..Limits::default()
    };
    let found = match media::probe(&data, &limits) {
        Ok(found) => Found {
            bytes: data.len() as u64,
            width: found.width,
            height: found.height,
            frames: found.frames,
        },
        Err(error) => return Outcome::AsFile(error.to_string()),
    };
    let (side, bytes) = match plan(found, pictures, bytes_max) {
        Plan::AsItIs => return Outcome::AsItIs(format),
        Plan::AsFile => return Outcome::AsFile("its form".to_owned()),
        Plan::Smaller { side, bytes } => (side, bytes),
    };
    let options = Options {
        max_width: Some(side),
        max_height: Some(side),
        max_bytes: usize::try_from(bytes).ok(),
        ..Options::default()
    };
    let made = match media::process(&data, &options, &limits, cancel) {
        Ok(made) => made,
        Err(error) => return Outcome::AsFile(error.to_string()),
    };
    if cancel.is_cancelled() {
        return Outcome::AsFile("nobody waits for it any more".to_owned());
    }
    let written = to
        .parent()
        .map_or(Ok(()), std::fs::create_dir_all)
        .and_then(|()| std::fs::write(to, &made.data));
    match written {
        Ok(()) => Outcome::Made(made.format, made.data.len() as u64),
        Err(error) => Outcome::Disk(error),
    }
}

/// Pure.
fn plan(found: Found, pictures: Option<Pictures>, bytes_max: u64) -> Plan {
    let (long, short) = (
        found.width.max(found.height),
        found.width.min(found.height).max(1),
    );
    let shown_max = pictures.map_or(bytes_max, |limits| limits.bytes_max.min(bytes_max));
    let sides_max = pictures.map_or(u32::MAX, |limits| limits.sides_max);
    let is_small = found.bytes <= shown_max && long.saturating_add(short) <= sides_max;
    let is_narrow = pictures.is_some_and(|limits| long / short >= limits.ratio_max);
    match (is_small, found.frames > 1 || is_narrow) {
        // A moving one would stand still.
        (_, true) if pictures.is_some() => Plan::AsFile,
        (true, _) => Plan::AsItIs,
        (false, true) => Plan::AsFile,
        (false, false) => Plan::Smaller {
            side: match sides_max {
                u32::MAX => long,
                // Of the longer side as much as leaves room for the shorter one.
                both => side(both, long, short),
            },
            bytes: shown_max,
        },
    }
}

fn side(both: u32, long: u32, short: u32) -> u32 {
    let of_both = u64::from(both) * u64::from(long) / (u64::from(long) + u64::from(short));
    // Rounding may add a pixel to either.
    let most = u32::try_from(of_both).unwrap_or(u32::MAX).saturating_sub(1);
    most.min(long).max(1)
}

fn mime(format: Format) -> &'static str {
    match format {
        Format::Jpeg => "image/jpeg",
        Format::Png => "image/png",
        Format::WebP => "image/webp",
        Format::Gif => "image/gif",
        _ => "application/octet-stream",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PHOTOS: Option<Pictures> = Some(Pictures {
        bytes_max: 100,
        sides_max: 10_000,
        ratio_max: 20,
    });

    #[tokio::test]
    async fn what_is_no_picture_waits_for_nobody() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("a.pdf");
        std::fs::write(&path, b"%PDF-1.7").expect("a file");
        let file = Attachment {
            source: path.display().to_string(),
            name: None,
            mime: Some("application/pdf".to_owned()),
            bytes: Some(8),
            voice: false,
            as_file: false,
        };
        let limits = Capabilities {
            channel: "test",
            text_max: 1,
            text_unit: channels::TextUnit::Chars,
            caption_max: 0,
            markup: channels::Markup::Plain,
            media_bytes_max: 100,
            album_max: 1,
            pictures: PHOTOS,
            replies: false,
            threads: false,
            edits: false,
            deletes: false,
            reactions: false,
            typing: false,
            buttons: false,
            idempotent_send: false,
        };
        // Nobody's turn ever comes.
        let turn = Arc::new(Semaphore::new(0));
        let made = dir.path().join("made");
        let fitted = fit(file.clone(), &limits, &made, &turn).await;
        assert_eq!(fitted.expect("it is taken"), file);
    }

    #[test]
    fn what_is_too_large_is_made_smaller_and_what_is_no_picture_is_a_file() {
        let check = |(bytes, width, height, frames), pictures, expected: Plan| {
            let found = Found {
                bytes,
                width,
                height,
                frames,
            };
            assert_eq!(plan(found, pictures, 500), expected, "{found:?}");
        };
        check((100, 5000, 5000, 1), PHOTOS, Plan::AsItIs);
        let smaller = |side, bytes| Plan::Smaller { side, bytes };
        check((101, 4000, 3000, 1), PHOTOS, smaller(4000, 100));
        check((10, 9000, 3000, 1), PHOTOS, smaller(7499, 100));
        check((10, 3000, 9000, 1), PHOTOS, smaller(7499, 100));
        check((10, 400, 20, 1), PHOTOS, Plan::AsFile);
        check((10, 380, 20, 1), PHOTOS, Plan::AsItIs);
        check((10, 20, 20, 3), PHOTOS, Plan::AsFile);
        check((501, 20_000, 100, 1), None, smaller(20_000, 500));
        check((500, 20_000, 100, 3), None, Plan::AsItIs);
        check((501, 20, 100, 3), None, Plan::AsFile);
    }
}
