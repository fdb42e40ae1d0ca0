//! `POST /api/media/probe`, `fit` and `convert`: a file in; what it says of itself, or a picture, out.
//!
//! A request has room for its body before a byte of it is read, and for its work before a pixel is decoded. Without room for the
//! body it is refused at once; for a thread and for memory it waits its turn, not for long. No work is on a thread that serves,
//! and it ends at its next stage once nobody waits for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Request, Response, StatusCode, header};
use http_body_util::BodyExt as _;
use hyper::body::{Body as _, Incoming};
use media::{Cancel, Fit, Format, Limits, MediaError, Options, Output, Target};
use serde_json::Value;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::reads::Query;
use super::{Refusal, answer};
use crate::ingress::http::{Body, full};
use crate::media_facts::{self, Found};

/// Largest file.
const BODY_BYTES_MAX: usize = 32 << 20;
/// All files that are held at once, results that are on their way included.
const BODIES_BYTES_MAX: usize = 64 << 20;
/// Requests at once, those that wait included.
const REQUESTS_MAX: usize = 32;
/// Of one picture, all frames together.
const PIXELS_MAX: u64 = 50_000_000;
/// What the work on one picture may take, as [`media::cost`] tells it, and on all at once: a large one is alone, small ones
/// are several.
const MEMORY_MAX: u64 = 600_000_000;
/// How long a body may take to arrive, a turn to come, and a picture to be made.
const BODY_PATIENCE: Duration = Duration::from_secs(60);
const TURN_PATIENCE: Duration = Duration::from_secs(20);
const WORK_PATIENCE: Duration = Duration::from_secs(30);
/// Room is given out in such pieces.
const ROOM_BYTES: usize = 64 << 10;
const ROOM_MEMORY: u64 = 1 << 20;
const SIDE_MAX: u32 = 16_384;
/// The client ended before its body did.
const CUT_SHORT: &str = "CUT_SHORT";

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Operation {
    Probe,
    Fit,
    Convert,
}

impl Operation {
    pub(crate) const ALL: [Self; 3] = [Self::Probe, Self::Fit, Self::Convert];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Probe => "probe",
            Self::Fit => "fit",
            Self::Convert => "convert",
        }
    }

    pub(super) fn of(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|known| known.name() == name)
    }
}

/// How a request ended.
#[derive(Debug, Clone, Copy)]
pub(crate) enum End {
    Done,
    /// For what it was.
    Refused,
    /// For want of room or time, or because of us.
    Busy,
    /// Nobody waited any more.
    Gone,
}

impl End {
    pub(crate) const ALL: [Self; 4] = [Self::Done, Self::Refused, Self::Busy, Self::Gone];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Refused => "refused",
            Self::Busy => "busy",
            Self::Gone => "gone",
        }
    }
}

/// What requests share. One for the gateway.
#[derive(Debug)]
pub(crate) struct Desk {
    requests: Arc<Semaphore>,
    /// In pieces of [`ROOM_BYTES`].
    bodies: Arc<Semaphore>,
    threads: Arc<Semaphore>,
    /// In pieces of [`ROOM_MEMORY`].
    memory: Arc<Semaphore>,
    /// By [`Operation`] and [`End`].
    ends: [[AtomicU64; 4]; 3],
    work_us: AtomicU64,
}

/// What has been counted.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    /// By [`Operation`] and [`End`].
    pub(crate) ends: [[u64; 4]; 3],
    pub(crate) work_seconds: f64,
    /// Held now.
    pub(crate) body_bytes: u64,
}

impl Default for Desk {
    fn default() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            requests: Arc::new(Semaphore::new(REQUESTS_MAX)),
            bodies: Arc::new(Semaphore::new(BODIES_BYTES_MAX / ROOM_BYTES)),
            threads: Arc::new(Semaphore::new(cores.min(4))),
            memory: Arc::new(Semaphore::new(memory_pieces(MEMORY_MAX) as usize)),
            ends: Default::default(),
            work_us: AtomicU64::new(0),
        }
    }
}

impl Desk {
    pub(crate) fn counts(&self) -> Counts {
        let free = self.bodies.available_permits() * ROOM_BYTES;
        Counts {
            ends: self
                .ends
                .each_ref()
                .map(|ends| ends.each_ref().map(|count| count.load(Ordering::Relaxed))),
            work_seconds: self.work_us.load(Ordering::Relaxed) as f64 / 1e6,
            body_bytes: BODIES_BYTES_MAX.saturating_sub(free) as u64,
        }
    }

    /// For `bytes` more of a body, without waiting: who waits with half a body holds up others.
    fn room(&self, bytes: usize) -> Result<OwnedSemaphorePermit, Refusal> {
        let pieces = u32::try_from(bytes.div_ceil(ROOM_BYTES)).unwrap_or(u32::MAX);
        let room = Arc::clone(&self.bodies).try_acquire_many_owned(pieces);
        room.map_err(|_full| busy("as many files as there is memory for are being worked on"))
    }
}

/// Counts a request when it is over, also one that is dropped because its client went away.
struct Watched<'a> {
    desk: &'a Desk,
    operation: Operation,
    end: End,
}

impl Drop for Watched<'_> {
    fn drop(&mut self) {
        let count = &self.desk.ends[self.operation as usize][self.end as usize];
        count.fetch_add(1, Ordering::Relaxed);
    }
}

/// Ends the work when it is dropped.
struct Stop(Cancel);

impl Drop for Stop {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

enum Made {
    Facts(Value),
    Picture(Output, OwnedSemaphorePermit),
}

/// A result, with its room until the last of it is sent.
struct Sent {
    data: Vec<u8>,
    _room: OwnedSemaphorePermit,
}

impl AsRef<[u8]> for Sent {
    fn as_ref(&self) -> &[u8] {
        &self.data
    }
}

/// Answers a request that may be here and whose method is right.
pub(super) async fn respond(
    desk: &Desk,
    operation: Operation,
    request: Request<Incoming>,
) -> Response<Body> {
    let mut watched = Watched {
        desk,
        operation,
        end: End::Gone,
    };
    let made = made(desk, operation, request).await;
    watched.end = match &made {
        Ok(_) => End::Done,
        Err(refusal) if refusal.status.is_server_error() => End::Busy,
        Err(refusal) if refusal.code == CUT_SHORT => End::Gone,
        Err(_) => End::Refused,
    };
    match made {
        Ok(Made::Facts(facts)) => answer(Ok((StatusCode::OK, facts))),
        Ok(Made::Picture(output, room)) => picture(output, room),
        Err(refusal) => answer(Err(refusal)),
    }
}

async fn made(
    desk: &Desk,
    operation: Operation,
    request: Request<Incoming>,
) -> Result<Made, Refusal> {
    let query = request.uri().query().unwrap_or_default();
    let options = options(operation, query)?;
    let held = Arc::clone(&desk.requests).try_acquire_owned();
    let held = held.map_err(|_full| busy("too many requests with media at once"))?;
    let reading = tokio::time::timeout(BODY_PATIENCE, read(desk, request.into_body()));
    let (data, room) = reading.await.map_err(|_elapsed| {
        let message = format!("took longer than {} s", BODY_PATIENCE.as_secs());
        Refusal::new(StatusCode::REQUEST_TIMEOUT, "TIMEOUT", message).field("body")
    })??;
    let thread = turn(&desk.threads, 1).await?;
    let data = Arc::new(data);
    // The work holds what was taken for it, not who waits: it may go on for a moment when nobody does.
    let holds = Arc::new((held, room));
    let cancel = Cancel::default();
    let _stop = Stop(cancel.clone());

    let limits = Limits {
        bytes: BODY_BYTES_MAX as u64,
        pixels: PIXELS_MAX,
        animation_pixels: PIXELS_MAX,
        ..Limits::default()
    };
    let found = {
        let (data, limits, holds) = (Arc::clone(&data), limits.clone(), Arc::clone(&holds));
        worked(desk, move || {
            let found = media_facts::find(&data, &limits);
            drop((holds, thread));
            found
        })
    };
    let found = found.await?;
    let (options, found) = match (options, found) {
        (None, found) => return Ok(Made::Facts(found.json(data.len() as u64))),
        (Some(options), Found::Image(found)) => (options, found),
        (Some(_), Found::Recording(found)) => {
            let kind = found.container.name();
            let message = format!(
                "{kind} is video or sound: only pictures are made here; /api/media/probe tells what it is"
            );
            return Err(unsupported(message));
        }
    };
    let cost = media::cost(&found, &options)?;
    if cost > MEMORY_MAX {
        let what = "bytes of memory that this takes";
        let (have, limit) = (cost, MEMORY_MAX);
        return Err(MediaError::Limit { what, have, limit }.into());
    }
    // The thread was given back meanwhile: who waits for a large picture to end holds up no small one.
    let memory = turn(&desk.memory, memory_pieces(cost)).await?;
    let thread = turn(&desk.threads, 1).await?;
    let work = worked(desk, move || {
        let made = media::process(&data, &options, &limits, &cancel);
        drop((data, holds, memory, thread));
        made
    });
    let output = work.await?;
    let bytes = output.data.len();
    if bytes > BODY_BYTES_MAX {
        let message = format!(
            "the result has {bytes} bytes, and at most {BODY_BYTES_MAX} are answered: ask for another format or a smaller picture"
        );
        let refusal = Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, "MEDIA_LIMIT", message);
        return Err(refusal.field("format"));
    }
    let room = desk.room(bytes)?;
    Ok(Made::Picture(output, room))
}

/// Runs on a thread that may block; no longer than [`WORK_PATIENCE`] is waited for it.
async fn worked<T: Send + 'static>(
    desk: &Desk,
    work: impl FnOnce() -> Result<T, MediaError> + Send + 'static,
) -> Result<T, Refusal> {
    let since = Instant::now();
    let ended = tokio::time::timeout(WORK_PATIENCE, tokio::task::spawn_blocking(work)).await;
    let us = u64::try_from(since.elapsed().as_micros()).unwrap_or(u64::MAX);
    desk.work_us.fetch_add(us, Ordering::Relaxed);
    match ended {
        Ok(Ok(outcome)) => outcome.map_err(Refusal::from),
        Ok(Err(error)) => {
            tracing::error!(%error, "work on media panicked; answered 500");
            let message = "failed inside the gateway; see its log";
            Err(Refusal::new(
                StatusCode::INTERNAL_SERVER_ERROR,
                "UNAVAILABLE",
                message,
            ))
        }
        Err(_elapsed) => {
            let message = format!(
                "it takes longer than {} s: ask for less",
                WORK_PATIENCE.as_secs()
            );
            Err(
                Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, "MEDIA_LIMIT", message)
                    .field("body"),
            )
        }
    }
}

async fn turn(of: &Arc<Semaphore>, pieces: u32) -> Result<OwnedSemaphorePermit, Refusal> {
    let turn = tokio::time::timeout(TURN_PATIENCE, Arc::clone(of).acquire_many_owned(pieces));
    match turn.await {
        Ok(Ok(turn)) => Ok(turn),
        Ok(Err(_closed)) => Err(busy("the gateway is stopping")),
        Err(_elapsed) => Err(busy("others have been worked on all the while")),
    }
}

fn memory_pieces(bytes: u64) -> u32 {
    u32::try_from(bytes.div_ceil(ROOM_MEMORY)).unwrap_or(u32::MAX)
}

/// The whole body, and the room that it has.
async fn read(desk: &Desk, mut body: Incoming) -> Result<(Vec<u8>, OwnedSemaphorePermit), Refusal> {
    let too_large = || {
        let message = format!("is larger than {BODY_BYTES_MAX} bytes");
        Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, "TOO_LARGE", message).field("body")
    };
    let stated = match body.size_hint().exact() {
        Some(stated) => usize::try_from(stated).unwrap_or(usize::MAX),
        None => 0,
    };
    if stated > BODY_BYTES_MAX {
        return Err(too_large());
    }
    let mut room = desk.room(stated.max(1))?;
    let mut data = Vec::with_capacity(stated);
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| {
            let message = format!("did not arrive whole: {error}");
            Refusal::new(StatusCode::BAD_REQUEST, CUT_SHORT, message).field("body")
        })?;
        let Some(piece) = frame.data_ref() else {
            continue;
        };
        let len = data.len() + piece.len();
        if len > BODY_BYTES_MAX {
            return Err(too_large());
        }
        let there = room.num_permits() * ROOM_BYTES;
        if len > there {
            // As a vector grows: by half of what it has.
            let more = (len - there).max((there / 2).min(BODY_BYTES_MAX - there));
            room.merge(desk.room(more)?);
            data.reserve_exact(there + more - data.len());
        }
        data.extend_from_slice(piece);
    }
    if data.is_empty() {
        let message = "is empty: it is the file itself";
        let refusal = Refusal::new(StatusCode::BAD_REQUEST, "INVALID_REQUEST", message);
        return Err(refusal.field("body"));
    }
    Ok((data, room))
}

/// `None`: facts alone are asked for.
fn options(operation: Operation, query: &str) -> Result<Option<Options>, Refusal> {
    let mut options = Options::default();
    match operation {
        Operation::Probe => {
            Query::parse(query, &[])?;
            return Ok(None);
        }
        Operation::Fit => {
            let known = [
                "max", "width", "height", "mode", "enlarge", "maxBytes", "format", "quality",
            ];
            let query = Query::parse(query, &known)?;
            let max = number(&query, "max", SIDE_MAX)?;
            let least = |side: Option<u32>| side.into_iter().chain(max).min();
            options.max_width = least(number(&query, "width", SIDE_MAX)?);
            options.max_height = least(number(&query, "height", SIDE_MAX)?);
            options.fit = match query.get("mode") {
                None | Some("inside") => Fit::Inside,
                Some("cover") => Fit::Cover,
                Some("exact") => Fit::Exact,
                Some(_) => return Err(invalid("mode", "must be inside, cover or exact")),
            };
            let is_box = options.max_width.is_some() && options.max_height.is_some();
            if options.fit != Fit::Inside && !is_box {
                return Err(invalid("mode", "takes width and height"));
            }
            options.enlarge = flag(&query, "enlarge")?;
            let bytes = number(&query, "maxBytes", BODY_BYTES_MAX as u32)?;
            options.max_bytes = bytes.map(|bytes| bytes as usize);
            options.target = target(&query)?.unwrap_or(Target::Same);
            options.quality = quality(&query)?;
        }
        Operation::Convert => {
            let query = Query::parse(query, &["format", "quality", "lossless"])?;
            let wanted = target(&query)?;
            options.target = wanted.ok_or_else(|| invalid("format", FORMATS))?;
            options.quality = quality(&query)?;
            options.lossless = flag(&query, "lossless")?;
        }
    }
    Ok(Some(options))
}

const FORMATS: &str = "must be jpeg, png, webp, gif or auto";

fn target(query: &Query) -> Result<Option<Target>, Refusal> {
    Ok(Some(match query.get("format") {
        None => return Ok(None),
        Some("auto") => Target::Auto,
        Some("jpeg") => Target::Format(Format::Jpeg),
        Some("png") => Target::Format(Format::Png),
        Some("webp") => Target::Format(Format::WebP),
        Some("gif") => Target::Format(Format::Gif),
        Some(_) => return Err(invalid("format", FORMATS)),
    }))
}

fn quality(query: &Query) -> Result<u8, Refusal> {
    let stated = number(query, "quality", 100)?;
    let stated = stated.and_then(|stated| u8::try_from(stated).ok());
    Ok(stated.unwrap_or(Options::default().quality))
}

fn number(query: &Query, name: &'static str, max: u32) -> Result<Option<u32>, Refusal> {
    let Some(text) = query.get(name) else {
        return Ok(None);
    };
    let is_plain = text.bytes().all(|byte| byte.is_ascii_digit());
    let number = text
        .parse()
        .ok()
        .filter(|number| (1..=max).contains(number));
    match number.filter(|_| is_plain) {
        Some(number) => Ok(Some(number)),
        None => Err(invalid(name, &format!("must be a number from 1 to {max}"))),
    }
}

fn flag(query: &Query, name: &'static str) -> Result<bool, Refusal> {
    match query.get(name) {
        None | Some("false") => Ok(false),
        Some("true") => Ok(true),
        Some(_) => Err(invalid(name, "must be true or false")),
    }
}

fn invalid(field: &'static str, message: &str) -> Refusal {
    Refusal::new(StatusCode::BAD_REQUEST, "INVALID_REQUEST", message).field(field)
}

fn unsupported(message: impl Into<String>) -> Refusal {
    let status = StatusCode::UNSUPPORTED_MEDIA_TYPE;
    Refusal::new(status, "UNSUPPORTED_MEDIA", message).field("body")
}

fn busy(message: &str) -> Refusal {
    let message = format!("{message}; try again");
    Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "BUSY", message)
}

impl From<MediaError> for Refusal {
    fn from(error: MediaError) -> Self {
        let unprocessable = |code: &'static str, field: &str, message: String| {
            Self::new(StatusCode::UNPROCESSABLE_ENTITY, code, message).field(field)
        };
        let message = error.to_string();
        match error {
            MediaError::Unsupported(_) => unsupported(message),
            MediaError::Limit { what, .. } if what.starts_with("smallest result") => {
                unprocessable("MEDIA_LIMIT", "maxBytes", message)
            }
            MediaError::Limit { .. } => unprocessable("MEDIA_LIMIT", "body", message),
            MediaError::Encode { .. } => unprocessable("CANNOT_WRITE", "format", message),
            MediaError::Cancelled => busy("it was stopped"),
            // What is wrong with the wish was found before; the rest is the file.
            _ => unprocessable("BROKEN_MEDIA", "body", message),
        }
    }
}

/// The picture, and beside it what is not in every kind's first bytes.
fn picture(output: Output, room: OwnedSemaphorePermit) -> Response<Body> {
    let kind = match output.format {
        Format::Jpeg => "image/jpeg",
        Format::WebP => "image/webp",
        Format::Gif => "image/gif",
        _ => "image/png",
    };
    let facts = [
        ("x-media-width", output.width),
        ("x-media-height", output.height),
        ("x-media-frames", output.frames),
        ("x-media-quality", output.quality.into()),
    ];
    let sent = Sent {
        data: output.data,
        _room: room,
    };
    let mut response = Response::new(full(Bytes::from_owner(sent)));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    for (name, value) in facts {
        headers.insert(HeaderName::from_static(name), HeaderValue::from(value));
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wished_is_read_once_and_named_when_it_is_wrong() {
        let fit = |query| options(Operation::Fit, query).map(|options| options.expect("a picture"));
        let wished = fit("max=800&width=1000&mode=cover&maxBytes=5000&format=auto&enlarge=true");
        let wished = wished.unwrap_or_else(|refusal| panic!("{}", refusal.message));
        assert_eq!(
            (wished.max_width, wished.max_height, wished.max_bytes),
            (Some(800), Some(800), Some(5000))
        );
        assert_eq!((wished.fit, wished.target), (Fit::Cover, Target::Auto));
        assert!(wished.enlarge && wished.quality == 85);
        for (operation, query, field) in [
            (Operation::Fit, "max=0", "max"),
            (Operation::Fit, "max=%2B5", "max"),
            (Operation::Fit, "width=16385", "width"),
            (Operation::Fit, "height=", "height"),
            (Operation::Fit, "quality=101", "quality"),
            (Operation::Fit, "mode=fill", "mode"),
            (Operation::Fit, "mode=cover&width=5", "mode"),
            (Operation::Fit, "mode=exact", "mode"),
            (Operation::Fit, "enlarge=1", "enlarge"),
            (Operation::Fit, "maxBytes=99999999999", "maxBytes"),
            (Operation::Fit, "lossless=true", "lossless"),
            (Operation::Convert, "", "format"),
            (Operation::Convert, "format=tiff", "format"),
            (Operation::Probe, "max=5", "max"),
        ] {
            let refusal = options(operation, query).err();
            let refusal = refusal.unwrap_or_else(|| panic!("{query} is taken"));
            assert_eq!(refusal.field.as_deref(), Some(field), "{query}");
            assert_eq!(refusal.status, StatusCode::BAD_REQUEST, "{query}");
        }
    }

    #[test]
    fn room_is_given_back_and_what_is_held_is_told() {
        let desk = Desk::default();
        let half = desk.room(BODY_BYTES_MAX).ok().expect("room");
        let other = desk.room(BODY_BYTES_MAX).ok().expect("room");
        assert_eq!(desk.counts().body_bytes, BODIES_BYTES_MAX as u64);
        let refusal = desk.room(1).expect_err("it is full");
        assert_eq!((refusal.code, refusal.status.as_u16()), ("BUSY", 503));
        drop(half);
        let small = desk.room(1).ok().expect("room");
        assert_eq!(
            desk.counts().body_bytes,
            (BODY_BYTES_MAX + ROOM_BYTES) as u64
        );
        drop((other, small));
        assert_eq!(desk.counts().body_bytes, 0);
    }
}
