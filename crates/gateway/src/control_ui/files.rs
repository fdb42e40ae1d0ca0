//! Static files: type, cache rules, pre-compressed variants, conditional requests.

use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::BodyExt as _;
use hyper::body::{Frame, Incoming, SizeHint};

use super::{ControlUi, guarded};
use crate::ingress::http::{Body, full};

const IMMUTABLE: &str = "public, max-age=31536000, immutable";
const CHUNK_BYTES: usize = 64 * 1024;

/// A file that may be served, and its compressed variants.
pub(super) struct Asset {
    /// Below the root.
    relative: String,
    file: File,
    bytes: u64,
    modified: SystemTime,
    compressed: Vec<(&'static str, File, u64)>,
    /// Whether its name changes with its content.
    is_fingerprinted: bool,
}

pub(super) fn extension(name: &str) -> String {
    let name = name.rsplit('/').next().unwrap_or(name);
    match name.rsplit_once('.') {
        Some((stem, extension)) if !stem.is_empty() => extension.to_lowercase(),
        _ => String::new(),
    }
}

fn content_type(extension: &str) -> Option<&'static str> {
    Some(match extension {
        "html" => "text/html; charset=utf-8",
        "js" => "application/javascript; charset=utf-8",
        "css" => "text/css; charset=utf-8",
        "json" | "map" => "application/json; charset=utf-8",
        "svg" => "image/svg+xml",
        "png" => "image/png",
        "jpg" | "jpeg" => "image/jpeg",
        "gif" => "image/gif",
        "webp" => "image/webp",
        "ico" => "image/x-icon",
        "txt" => "text/plain; charset=utf-8",
        "wasm" => "application/wasm",
        "webmanifest" => "application/manifest+json; charset=utf-8",
        "woff2" => "font/woff2",
        _ => return None,
    })
}

/// Whether a missing file of this extension is a 404 and never the page.
pub(super) fn is_asset_extension(extension: &str) -> bool {
    extension != "html" && content_type(extension).is_some()
}

fn is_compressible(extension: &str) -> bool {
    matches!(
        extension,
        "css" | "html" | "js" | "json" | "svg" | "txt" | "wasm" | "webmanifest"
    )
}

/// Opens a regular file that lies below `root` once links are followed. Outside a package a hard link could bring
/// in any file, and is refused.
pub(super) fn open(root: &Path, relative: &str, is_bundled: bool) -> Option<Asset> {
    let root = root.canonicalize().ok()?;
    let (file, bytes, modified) = open_below(&root, relative, is_bundled)?;
    let is_fingerprinted = is_bundled && relative.starts_with("assets/");
    let compressed = match is_fingerprinted && is_compressible(&extension(relative)) {
        true => [("br", "br"), ("gzip", "gz")]
            .into_iter()
            .filter_map(|(encoding, suffix)| {
                let (file, bytes, _) =
                    open_below(&root, &format!("{relative}.{suffix}"), is_bundled)?;
                Some((encoding, file, bytes))
            })
            .collect(),
        false => Vec::new(),
    };
    Some(Asset {
        relative: relative.to_owned(),
        file,
        bytes,
        modified,
        compressed,
        is_fingerprinted,
    })
}

fn open_below(root: &Path, relative: &str, is_bundled: bool) -> Option<(File, u64, SystemTime)> {
    let path = root.join(relative).canonicalize().ok()?;
    if !path.starts_with(root) {
        return None;
    }
    let file = File::open(&path).ok()?;
    let meta = file.metadata().ok()?;
    if !meta.is_file() || (!is_bundled && meta.nlink() > 1) {
        return None;
    }
    Some((file, meta.len(), meta.modified().ok()?))
}

/// The encodings a client takes, best first. Source: src/infra/http-content-encoding.ts at 2026.9.6.
pub(super) fn encodings(headers: &HeaderMap, available: &[&'static str]) -> Vec<&'static str> {
    let accept: Vec<&str> = headers
        .get_all(header::ACCEPT_ENCODING)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .collect();
    let accept = accept.join(",");
    if accept.trim().is_empty() {
        return vec!["identity"];
    }
    let quality = |wanted: &str| {
        accept
            .split(',')
            .filter_map(|entry| {
                let mut parts = entry.split(';').map(str::trim);
                let name = parts.next()?.to_lowercase();
                (name == wanted).then(|| {
                    let q = parts.find_map(|part| {
                        let (key, value) = part.split_once('=')?;
                        key.eq_ignore_ascii_case("q").then_some(value.trim())
                    });
                    match q {
                        None => 1.0,
                        Some(q) => q
                            .parse::<f32>()
                            .ok()
                            .filter(|q| (0.0..=1.0).contains(q))
                            .unwrap_or(0.0),
                    }
                })
            })
            .reduce(f32::max)
    };
    let any = quality("*");
    let mut all: Vec<(&'static str, f32)> = ["br", "gzip", "identity"]
        .into_iter()
        .filter(|name| *name == "identity" || available.contains(name))
        .map(|name| {
            let q = match name {
                "identity" => quality(name).unwrap_or(if any == Some(0.0) { 0.0 } else { 1.0 }),
                _ => quality(name).or(any).unwrap_or(0.0),
            };
            (name, q)
        })
        .filter(|(_, q)| *q > 0.0)
        .collect();
    all.sort_by(|a, b| b.1.total_cmp(&a.1));
    all.into_iter().map(|(name, _)| name).collect()
}

/// 406 with the policy that `response` has already.
pub(super) fn not_acceptable(mut response: Response<Body>) -> Response<Body> {
    *response.status_mut() = StatusCode::NOT_ACCEPTABLE;
    *response.body_mut() = full("Not Acceptable");
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("text/plain; charset=utf-8"),
    );
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::VARY, HeaderValue::from_static("Accept-Encoding"));
    guarded(response)
}

pub(super) fn respond(ui: &ControlUi, request: &Request<Incoming>, asset: Asset) -> Response<Body> {
    let extension = extension(&asset.relative);
    let is_immutable = asset.is_fingerprinted || is_versioned(ui, request, &asset.relative);
    let available: Vec<&'static str> = asset.compressed.iter().map(|(name, ..)| *name).collect();
    let Some(encoding) = encodings(request.headers(), &available).first().copied() else {
        return not_acceptable(Response::new(full("")));
    };
    let modified = asset.modified.min(SystemTime::now());
    let seconds = modified.duration_since(UNIX_EPOCH).unwrap_or_default();
    let modified = UNIX_EPOCH + Duration::from_secs(seconds.as_secs());
    let mut response = Response::new(full(""));
    let headers = response.headers_mut();
    let cache = if is_immutable { IMMUTABLE } else { "no-cache" };
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static(cache));
    if let Ok(date) = HeaderValue::from_str(&httpdate::fmt_http_date(modified)) {
        headers.insert(header::LAST_MODIFIED, date);
    }
    headers.insert(header::VARY, HeaderValue::from_static("Accept-Encoding"));
    if is_unmodified(request.headers(), modified) {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        return guarded(response);
    }
    let kind = content_type(&extension).unwrap_or("application/octet-stream");
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    if encoding != "identity" {
        headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static(encoding));
    }
    let chosen = asset
        .compressed
        .into_iter()
        .find(|(name, ..)| *name == encoding);
    let (file, bytes) = match chosen {
        Some((_, file, bytes)) => (file, bytes),
        None => (asset.file, asset.bytes),
    };
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(bytes));
    if *request.method() == Method::GET {
        *response.body_mut() = FileBody::new(file, bytes)
            .map_err(|never| match never {})
            .boxed();
    }
    guarded(response)
}

/// The page names its build in the query of what changes only with it.
fn is_versioned(ui: &ControlUi, request: &Request<Incoming>, relative: &str) -> bool {
    let mut pairs = request
        .uri()
        .query()
        .into_iter()
        .flat_map(|query| query.split('&'));
    let named = pairs.find_map(|pair| pair.strip_prefix("v="));
    named.is_some_and(|build| ui.is_build(build)) && is_public(relative)
}

/// Source: `isControlUiVersionedPublicAsset`, src/gateway/control-ui-root-assets.ts at 2026.9.6.
fn is_public(relative: &str) -> bool {
    let Some((folder, name)) = relative.split_once('/') else {
        return relative != "sw.js" && super::ROOT_FILES.contains(&relative);
    };
    let flat = !name.contains('/');
    match (folder, extension(name).as_str()) {
        ("fonts", "css" | "woff2") | ("themes", "css") => flat,
        ("provider-icons" | "cloud-provider-icons", "svg") => flat,
        ("file-icons", "svg") => true,
        ("app-art" | "community-art", "webp") => flat,
        _ => false,
    }
}

/// Source: `isControlUiFileUnmodified`: no entity tags, so only `*` matches one.
fn is_unmodified(headers: &HeaderMap, modified: SystemTime) -> bool {
    let value = |name: header::HeaderName| headers.get(name)?.to_str().ok();
    if let Some(tags) = value(header::IF_NONE_MATCH) {
        return tags.trim() == "*";
    }
    value(header::IF_MODIFIED_SINCE)
        .and_then(|date| httpdate::parse_http_date(date).ok())
        .is_some_and(|since| modified <= since && since <= SystemTime::now())
}

/// A file read as it is sent, never whole in memory.
struct FileBody {
    reading: Option<tokio::task::JoinHandle<(File, std::io::Result<Vec<u8>>)>>,
    file: Option<File>,
    left: u64,
}

impl FileBody {
    fn new(file: File, bytes: u64) -> Self {
        Self {
            reading: None,
            file: Some(file),
            left: bytes,
        }
    }
}

impl hyper::body::Body for FileBody {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        if self.reading.is_none() {
            let Some(mut file) = self.file.take() else {
                return Poll::Ready(None);
            };
            let want = usize::try_from(self.left)
                .unwrap_or(CHUNK_BYTES)
                .min(CHUNK_BYTES);
            self.reading = Some(tokio::task::spawn_blocking(move || {
                let mut buffer = vec![0; want];
                let read = file.read(&mut buffer).map(|count| {
                    buffer.truncate(count);
                    buffer
                });
                (file, read)
            }));
        }
        let Some(reading) = self.reading.as_mut() else {
            return Poll::Ready(None);
        };
        let done = std::task::ready!(Pin::new(reading).poll(cx));
        self.reading = None;
        match done {
            Ok((file, Ok(bytes))) if !bytes.is_empty() => {
                self.file = Some(file);
                self.left -= (bytes.len() as u64).min(self.left);
                Poll::Ready(Some(Ok(Frame::data(bytes.into()))))
            }
            // Shorter than announced: the connection is closed, and the client knows that it has not got it all.
            _ => Poll::Ready(None),
        }
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_encoding_that_is_there_is_chosen() {
        let check = |accept: &str, available: &[&'static str], expected: &[&str]| {
            let mut headers = HeaderMap::new();
            if !accept.is_empty() {
                headers.insert(header::ACCEPT_ENCODING, accept.parse().expect("a header"));
            }
            assert_eq!(encodings(&headers, available), expected, "{accept}");
        };
        let both = ["br", "gzip"];
        check("", &both, &["identity"]);
        check(
            "gzip, deflate, br, zstd",
            &both,
            &["br", "gzip", "identity"],
        );
        check("gzip;q=1, br;q=0.5", &both, &["gzip", "identity", "br"]);
        check("gzip", &[], &["identity"]);
        check("identity;q=0", &[], &[]);
        check("*;q=0", &both, &[]);
        check("*", &both, &["br", "gzip", "identity"]);
        check("gzip;q=2", &both, &["identity"]);
    }
}
