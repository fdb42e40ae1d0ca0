//! A self-signed pair for a gateway that has none.
//!
//! Name and life are the original's (`CN=openclaw-gateway`, 3,650 days); ours also names this machine, so that a client that
//! trusts the file can check the name.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use jiff::{SignedDuration, Timestamp};
use rcgen::{CertificateParams, DnType, KeyPair};

const DAYS: i64 = 3650;

/// Makes both files, mode 600, their folders 700 where missing. A file that appears meanwhile is not overwritten.
///
/// # Errors
/// What could not be written, and where.
pub(super) fn pair(certificate: &Path, key: &Path) -> Result<(), String> {
    let keys = KeyPair::generate().map_err(|error| error.to_string())?;
    let made = parameters()
        .self_signed(&keys)
        .map_err(|error| error.to_string())?;
    // The key first: a certificate alone would be half a pair to the next start, and says nothing secret.
    publish(key, keys.serialize_pem().as_bytes())?;
    if let Err(why) = publish(certificate, made.pem().as_bytes()) {
        return match fs::remove_file(key) {
            Ok(()) => Err(why),
            Err(error) => Err(format!("{why}; remove {}: {error}", key.display())),
        };
    }
    Ok(())
}

fn parameters() -> CertificateParams {
    let mut names = vec![
        "localhost".to_owned(),
        Ipv4Addr::LOCALHOST.to_string(),
        Ipv6Addr::LOCALHOST.to_string(),
    ];
    names.extend(host_name());
    let mut parameters = CertificateParams::new(names).unwrap_or_default();
    parameters
        .distinguished_name
        .push(DnType::CommonName, "openclaw-gateway");
    let now = Timestamp::now();
    let day = |days: i64| {
        let at = now.saturating_add(SignedDuration::from_hours(24 * days));
        let at = at.unwrap_or(now).to_zoned(jiff::tz::TimeZone::UTC);
        let date = |number: i8| u8::try_from(number).unwrap_or(1);
        rcgen::date_time_ymd(at.year().into(), date(at.month()), date(at.day()))
    };
    parameters.not_before = day(-1);
    parameters.not_after = day(DAYS);
    parameters
}

/// The machine's name and its `.local` name, when it is one that a certificate can hold.
fn host_name() -> Vec<String> {
    let name = rustix::system::uname();
    let name = name.nodename().to_string_lossy();
    let is_plain = !name.is_empty()
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-.".contains(&byte));
    if !is_plain {
        return Vec::new();
    }
    let label = name.split('.').next().unwrap_or_default();
    let mut names = vec![name.to_string(), format!("{label}.local")];
    names.dedup();
    names
}

/// Writes beside the place and links it in: whole or not at all, and never over what is there.
fn publish(place: &Path, content: &[u8]) -> Result<(), String> {
    let said = |error: io::Error| format!("{}: {error}", place.display());
    let folder = place.parent().unwrap_or(Path::new("/"));
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .map_err(said)?;
    let staged = Staged(folder.join(format!(".openclaw-gateway-tls-{}", uuid::Uuid::new_v4())));
    let mut file = File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&staged.0)
        .map_err(said)?;
    file.write_all(content).map_err(said)?;
    file.sync_all().map_err(said)?;
    match fs::hard_link(&staged.0, place) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            // A file system without hard links: still never over what is there.
            tracing::debug!(%error, "no hard link; copying");
            let mut copy = File::options()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(place)
                .map_err(said)?;
            copy.write_all(content).map_err(said)?;
            copy.sync_all().map_err(said)?;
        }
        linked => linked.map_err(said)?,
    }
    drop(staged);
    File::open(folder)
        .and_then(|folder| folder.sync_all())
        .map_err(said)
}

/// A file that is removed again.
struct Staged(PathBuf);

impl Drop for Staged {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.0) {
            tracing::debug!(%error, file = %self.0.display(), "a staged file was left");
        }
    }
}
