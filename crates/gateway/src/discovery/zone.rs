//! Wide-area discovery: a DNS zone file that a name server on this machine serves to the tailnet
//! (`discovery.wideArea.domain`).
//!
//! Source: src/infra/widearea-dns.ts and src/gateway/server-discovery-runtime.ts at 2026.9.6. The file is the one that
//! `openclaw dns setup` points CoreDNS at, so its name, form and content hash are the original's.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use jiff::Timestamp;

use crate::config::{create_private_dir, replace_private};

const NAME_BYTES_MAX: usize = 253;
const LABEL_BYTES_MAX: usize = 63;
/// A name server runs as another user.
const MODE: u32 = 0o644;

/// What the zone says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Zone {
    /// With its closing dot.
    pub(super) domain: String,
    /// This machine's name, up to the first dot.
    pub(super) host: String,
    pub(super) display_name: String,
    pub(super) port: u16,
    /// SHA-256 of the certificate, with TLS.
    pub(super) fingerprint: Option<String>,
    pub(super) is_direct: bool,
    pub(super) tailnet_name: Option<String>,
    /// With `discovery.mdns.mode: "full"`.
    pub(super) ssh_port: Option<u16>,
    pub(super) cli_path: Option<String>,
    pub(super) ipv4: Ipv4Addr,
    pub(super) ipv6: Option<Ipv6Addr>,
}

/// `example.internal` or `example.internal.` as `example.internal.`; `None` if it is no DNS name.
pub(super) fn domain(raw: &str) -> Option<String> {
    let name = raw.trim();
    let name = name.strip_suffix('.').unwrap_or(name);
    let is_label = |label: &str| {
        (1..=LABEL_BYTES_MAX).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    (name.len() <= NAME_BYTES_MAX && name.split('.').all(is_label)).then(|| format!("{name}."))
}

impl Zone {
    /// `domain`: as [`domain`] makes it.
    pub(super) fn new(domain: String, port: u16, ipv4: Ipv4Addr) -> Self {
        Self {
            domain,
            host: String::new(),
            display_name: String::new(),
            port,
            fingerprint: None,
            is_direct: false,
            tailnet_name: None,
            ssh_port: None,
            cli_path: None,
            ipv4,
            ipv6: None,
        }
    }

    /// `<state>/dns/<domain>.db`.
    pub(crate) fn file(&self, state_dir: &Path) -> PathBuf {
        let name = self.domain.strip_suffix('.').unwrap_or(&self.domain);
        state_dir.join("dns").join(format!("{name}.db"))
    }

    /// Writes the file if it says something else; the serial number grows. Answers whether it did.
    ///
    /// # Errors
    /// The file cannot be written; the former one is whole.
    pub(crate) fn write(&self, state_dir: &Path, now: Timestamp) -> io::Result<bool> {
        let file = self.file(state_dir);
        let former = match std::fs::read_to_string(&file) {
            Ok(text) => Some(text),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        if former.as_deref().and_then(hash_in) == Some(&self.hash()) {
            return Ok(false);
        }
        if let Some(folder) = file.parent() {
            create_private_dir(folder)?;
        }
        let mode = match file.metadata() {
            Ok(about) => about.permissions().mode(),
            Err(_) => MODE,
        };
        let serial = next_serial(former.as_deref().and_then(serial_in), now);
        replace_private(&file, self.text(serial).as_bytes())?;
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode))?;
        Ok(true)
    }

    fn text(&self, serial: u32) -> String {
        let body = self.records(&serial.to_string());
        format!("; openclaw-content-hash: {}\n{body}", self.hash())
    }

    /// FNV-1a of the records without the serial number, over UTF-16 units.
    fn hash(&self) -> String {
        let hash = self
            .records("SERIAL")
            .encode_utf16()
            .fold(2_166_136_261_u32, |hash, unit| {
                (hash ^ u32::from(unit)).wrapping_mul(16_777_619)
            });
        format!("{hash:08x}")
    }

    fn records(&self, serial: &str) -> String {
        let host = label(&self.host, "openclaw");
        let instance = label(&format!("{}-gateway", self.host), "openclaw-gw");
        let texts: Vec<String> = self.texts().iter().map(|text| quoted(text)).collect();
        let service = format!("{instance}._openclaw-gw._tcp");
        let mut lines = vec![
            format!("$ORIGIN {}", self.domain),
            "$TTL 60".to_owned(),
            format!("@ IN SOA ns1 hostmaster {serial} 7200 3600 1209600 60"),
            "@ IN NS ns1".to_owned(),
            format!("ns1 IN A {}", self.ipv4),
            format!("{host} IN A {}", self.ipv4),
        ];
        lines.extend(self.ipv6.map(|ipv6| format!("{host} IN AAAA {ipv6}")));
        lines.push(format!("_openclaw-gw._tcp IN PTR {service}"));
        lines.push(format!("{service} IN SRV 0 0 {} {host}", self.port));
        lines.push(format!("{service} IN TXT {}", texts.join(" ")));
        lines.join("\n") + "\n"
    }

    fn texts(&self) -> Vec<String> {
        let shown = match self.display_name.trim() {
            "" => &self.host,
            name => name,
        };
        let mut texts = vec![
            format!("displayName={shown}"),
            "role=gateway".to_owned(),
            "transport=gateway".to_owned(),
            format!("gatewayPort={}", self.port),
        ];
        if let Some(fingerprint) = &self.fingerprint {
            texts.push("gatewayTls=1".to_owned());
            texts.push(format!("gatewayTlsSha256={fingerprint}"));
        }
        if self.is_direct {
            texts.push("gatewayDirectReachable=1".to_owned());
        }
        let named = [
            ("tailnetDns", self.tailnet_name.clone()),
            ("sshPort", self.ssh_port.map(|port| port.to_string())),
            ("cliPath", self.cli_path.clone()),
        ];
        texts.extend(
            named
                .into_iter()
                .filter_map(|(name, value)| Some(format!("{name}={}", value?))),
        );
        texts
    }
}

fn quoted(text: &str) -> String {
    let text = text
        .replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n");
    format!("\"{text}\"")
}

/// Small letters, digits and single hyphens inside.
fn label(raw: &str, fallback: &str) -> String {
    let mut out = String::new();
    for letter in raw.trim().to_lowercase().chars() {
        if letter.is_ascii_lowercase() || letter.is_ascii_digit() || letter == '-' {
            out.push(letter);
        } else if !out.ends_with('\u{0}') {
            // A run of anything else is one hyphen.
            out.push('\u{0}');
        }
    }
    let out = out.replace('\u{0}', "-");
    let out = out.trim_matches('-');
    let out = if out.is_empty() { fallback } else { out };
    out.chars().take(LABEL_BYTES_MAX).collect()
}

fn hash_in(zone: &str) -> Option<&str> {
    zone.lines().find_map(|line| {
        let comment = line.trim().strip_prefix(';')?;
        let hash = comment
            .trim_start()
            .strip_prefix("openclaw-content-hash:")?;
        Some(hash.trim()).filter(|hash| !hash.is_empty())
    })
}

fn serial_in(zone: &str) -> Option<u32> {
    zone.lines().find_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            ["@", "IN", "SOA", _, _, serial, ..] => serial.parse().ok(),
            _ => None,
        }
    })
}

/// `YYYYMMDD01`, or one more than before where that would not grow. Source: RFC 1982, as the original does.
fn next_serial(former: Option<u32>, now: Timestamp) -> u32 {
    let today = now.strftime("%Y%m%d01").to_string();
    let today = today.parse().unwrap_or_default();
    match former {
        Some(former) if !is_after(today, former) => former.wrapping_add(1),
        _ => today,
    }
}

fn is_after(serial: u32, former: u32) -> bool {
    (1..0x8000_0000).contains(&serial.wrapping_sub(former))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now(text: &str) -> Timestamp {
        text.parse().expect("a time")
    }

    fn zone() -> Zone {
        Zone {
            host: "My Box_1".to_owned(),
            display_name: "My \"Box\" (OpenClaw)".to_owned(),
            fingerprint: Some("ab:cd".to_owned()),
            is_direct: true,
            tailnet_name: Some("box.tail1.ts.net".to_owned()),
            ssh_port: Some(2222),
            cli_path: Some("/opt/open claw".to_owned()),
            ipv6: Some("fd7a:115c:a1e0::7".parse().expect("an address")),
            ..Zone::new(
                domain("Home.Example").expect("a name"),
                18789,
                Ipv4Addr::new(100, 64, 0, 7),
            )
        }
    }

    #[test]
    fn a_name_is_a_name_or_nothing() {
        assert_eq!(domain(" a.b. ").as_deref(), Some("a.b."));
        for bad in [
            "",
            ".",
            "a..b",
            "-a.b",
            "a_b.c",
            "../etc",
            "a/b",
            &"x".repeat(64),
        ] {
            assert_eq!(domain(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_serial_always_grows() {
        let day = now("2026-11-30T12:00:00Z");
        assert_eq!(next_serial(None, day), 2_026_113_001);
        assert_eq!(next_serial(Some(2_026_112_905), day), 2_026_113_001);
        assert_eq!(next_serial(Some(2_026_113_001), day), 2_026_113_002);
        assert_eq!(next_serial(Some(2_026_120_101), day), 2_026_120_102);
    }

    #[test]
    fn it_is_written_only_when_it_says_something_else() {
        let state = tempfile::tempdir().expect("temp dir");
        let (first, day) = (zone(), now("2026-11-30T12:00:00Z"));
        assert!(first.write(state.path(), day).expect("written"));
        assert!(
            !first
                .write(state.path(), now("2026-12-01T12:00:00Z"))
                .expect("the same")
        );
        let file = first.file(state.path());
        assert_eq!(file, state.path().join("dns/Home.Example.db"));
        let text = std::fs::read_to_string(&file).expect("readable");
        assert_eq!(serial_in(&text), Some(2_026_113_001));
        assert_eq!(
            file.metadata().expect("there").permissions().mode() & 0o777,
            MODE
        );
        let moved = Zone {
            port: 18790,
            ..zone()
        };
        assert!(moved.write(state.path(), day).expect("written"));
        let text = std::fs::read_to_string(&file).expect("readable");
        assert_eq!(serial_in(&text), Some(2_026_113_002));
    }

    /// Written by the original's `renderWideAreaGatewayZoneText` for the same values and serial number.
    #[test]
    fn it_is_the_original_s_to_the_byte() {
        assert_eq!(zone().text(2_026_113_001), include_str!("zone/full.db"));
        let plain = Zone {
            host: "box".to_owned(),
            display_name: "box (OpenClaw)".to_owned(),
            ..Zone::new(
                domain("openclaw.internal.").expect("a name"),
                18789,
                Ipv4Addr::new(100, 100, 1, 2),
            )
        };
        assert_eq!(plain.text(2_026_113_001), include_str!("zone/plain.db"));
    }
}
