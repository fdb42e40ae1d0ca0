//! `system.info` and the host facts behind the gateway's own presence row.
//!
//! Source: src/gateway/server-methods/system.ts at 2026.9.6. Reading is done anew on each call but for what
//! cannot change while a process runs.

use std::net::{Ipv4Addr, UdpSocket};
use std::path::Path;
use std::sync::OnceLock;

use serde_json::{Map, Value, json};

use super::{Inputs, presence};

/// `process.platform` of Node.
pub const fn platform() -> &'static str {
    match std::env::consts::OS.as_bytes() {
        b"macos" => "darwin",
        b"windows" => "win32",
        _ => std::env::consts::OS,
    }
}

/// `process.arch` of Node.
const fn arch() -> &'static str {
    match std::env::consts::ARCH.as_bytes() {
        b"x86_64" => "x64",
        b"aarch64" => "arm64",
        b"x86" => "ia32",
        _ => std::env::consts::ARCH,
    }
}

/// What does not change while the process runs.
#[derive(Debug)]
pub struct Machine {
    pub hostname: String,
    /// `6.18.44`, as `uname -r`.
    pub release: String,
    /// `Linux`, as `uname -s`.
    pub kernel: String,
    pub cpu_count: usize,
    pub cpu_model: Option<String>,
    pub model_identifier: Option<String>,
    /// New with every process: work bound to it does not survive a restart.
    pub process_instance_id: String,
}

impl Machine {
    pub fn get() -> &'static Self {
        static MACHINE: OnceLock<Machine> = OnceLock::new();
        MACHINE.get_or_init(|| {
            let uname = rustix::system::uname();
            let cpus = read("/proc/cpuinfo");
            let cpu_count = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
            Self {
                hostname: uname.nodename().to_string_lossy().into_owned(),
                release: uname.release().to_string_lossy().into_owned(),
                kernel: uname.sysname().to_string_lossy().into_owned(),
                cpu_count: match cpus
                    .lines()
                    .filter(|line| line.starts_with("processor"))
                    .count()
                {
                    0 => cpu_count,
                    count => count,
                },
                cpu_model: field(&cpus, "model name"),
                model_identifier: [
                    "/sys/devices/virtual/dmi/id/product_name",
                    "/proc/device-tree/model",
                ]
                .iter()
                .map(|file| {
                    read(file)
                        .trim_end_matches('\0')
                        .trim()
                        .chars()
                        .take(64)
                        .collect::<String>()
                })
                .find(|model| !model.is_empty()),
                process_instance_id: uuid::Uuid::new_v4().to_string(),
            }
        })
    }

    fn device_family(&self) -> String {
        match platform() {
            "darwin" => "Mac".to_owned(),
            "win32" => "Windows".to_owned(),
            "linux" => "Linux".to_owned(),
            other => other.to_owned(),
        }
    }

    /// The gateway's own presence row. `version` is the OpenClaw release that clients are to see.
    pub fn presence_host(&self, version: &str) -> presence::Host {
        let os = match platform() {
            "darwin" => "macos",
            "win32" => "windows",
            other => other,
        };
        presence::Host {
            name: self.hostname.clone(),
            ip: Some(lan_address().map_or_else(|| self.hostname.clone(), |ip| ip.to_string())),
            version: version.to_owned(),
            platform: format!("{os} {}", self.release),
            device_family: self.device_family(),
            model_identifier: self.model_identifier.clone(),
            instance_id: self.process_instance_id.clone(),
        }
    }
}

/// `system.info` of a gateway without an upstream. Node's own figures (event loop, heap) have no meaning
/// here and are left out; `nodeVersion`, which clients require, says what runs instead.
pub fn info(inputs: &Inputs<'_>) -> Value {
    let machine = Machine::get();
    let mut out = Map::new();
    let mut set = |name: &str, value: Value| {
        out.insert(name.to_owned(), value);
    };
    let display = machine
        .hostname
        .strip_suffix(".local")
        .unwrap_or(&machine.hostname);
    set(
        "machineName",
        json!(if display.is_empty() {
            "openclaw"
        } else {
            display
        }),
    );
    set("hostname", json!(machine.hostname));
    set("platform", json!(platform()));
    set("release", json!(machine.release));
    set("arch", json!(arch()));
    set(
        "osLabel",
        json!(format!("{} {}", machine.kernel, machine.release)),
    );
    if let Some(address) = lan_address().filter(Ipv4Addr::is_private) {
        set("lanAddress", json!(address.to_string()));
    }
    set("port", json!(inputs.port));
    set(
        "nodeVersion",
        json!(concat!("openclaw-rs ", env!("CARGO_PKG_VERSION"))),
    );
    set("pid", json!(std::process::id()));
    set("processInstanceId", json!(machine.process_instance_id));
    set("uptimeMs", json!(inputs.uptime_ms));
    set("cpuCount", json!(machine.cpu_count));
    if let Some(model) = &machine.cpu_model {
        set("cpuModel", json!(model));
    }
    if let Some(load) = load_average().filter(|load| load.iter().any(|value| *value != 0.0)) {
        set("loadAverage", json!(load));
    }
    let memory = read("/proc/meminfo");
    set("memoryTotalBytes", json!(kilobytes(&memory, "MemTotal")));
    set("memoryFreeBytes", json!(kilobytes(&memory, "MemAvailable")));
    if let Some((total, available)) = disk_space(inputs.places.state_dir) {
        let state_dir = inputs.places.state_dir.to_string_lossy();
        let disks = disks();
        set(
            "disks",
            match disks.is_empty() {
                true => {
                    json!([{ "path": state_dir, "totalBytes": total, "availableBytes": available }])
                }
                false => json!(disks),
            },
        );
        set("diskTotalBytes", json!(total));
        set("diskAvailableBytes", json!(available));
        set("diskPath", json!(state_dir));
    }
    // No model is run here, so none is there for small jobs either.
    set(
        "defaultAgentUtilityModel",
        json!({ "status": "unavailable" }),
    );
    Value::Object(out)
}

/// The address other machines reach this one by: of the interface with the default route.
pub(crate) fn lan_address() -> Option<Ipv4Addr> {
    let candidates = local_addresses(&read("/proc/net/fib_trie"));
    if let [only] = candidates[..] {
        return Some(only);
    }
    // Connecting a datagram socket sends nothing; it only makes the kernel choose a source address.
    let routed = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))
        .and_then(|socket| {
            socket.connect((Ipv4Addr::new(192, 0, 2, 1), 9))?;
            socket.local_addr()
        })
        .ok()
        .and_then(|address| match address.ip() {
            std::net::IpAddr::V4(ip) if !ip.is_loopback() && !ip.is_unspecified() => Some(ip),
            _ => None,
        });
    routed.or_else(|| candidates.first().copied())
}

/// Addresses of this host in `/proc/net/fib_trie`, loopback left out.
fn local_addresses(trie: &str) -> Vec<Ipv4Addr> {
    let mut found = Vec::new();
    let mut last: Option<Ipv4Addr> = None;
    for line in trie.lines().map(str::trim) {
        if let Some(address) = line.strip_prefix("|-- ") {
            last = address.parse().ok();
        } else if line == "/32 host LOCAL"
            && let Some(address) = last.filter(|address| !address.is_loopback())
            && !found.contains(&address)
        {
            found.push(address);
        }
    }
    found
}

fn load_average() -> Option<[f64; 3]> {
    let text = read("/proc/loadavg");
    let mut numbers = text.split_whitespace().map(str::parse);
    match (numbers.next(), numbers.next(), numbers.next()) {
        (Some(Ok(one)), Some(Ok(five)), Some(Ok(fifteen))) => Some([one, five, fifteen]),
        _ => None,
    }
}

/// Total and available bytes of the file system that holds `path` or its nearest existing parent.
fn disk_space(path: &Path) -> Option<(u64, u64)> {
    let existing = path.ancestors().find(|path| path.exists())?;
    let stat = rustix::fs::statvfs(existing).ok()?;
    Some((stat.f_bsize * stat.f_blocks, stat.f_bsize * stat.f_bavail))
}

/// Mounted disks, one row per device. Source: src/infra/system-disks.ts.
fn disks() -> Vec<Value> {
    let mut chosen: Vec<Mount> = Vec::new();
    for mount in visible_mounts(parse_mounts(&read("/proc/self/mountinfo"))) {
        let system = mount.path == "/boot/efi" || mount.path == "/efi" || mount.kind == "squashfs";
        let on_disk = mount.source.starts_with("/dev/") || mount.kind == "zfs";
        if system || !(on_disk || (mount.path == "/" && mount.kind == "overlay")) {
            continue;
        }
        match chosen
            .iter_mut()
            .find(|existing| existing.device == mount.device)
        {
            None => chosen.push(mount),
            Some(existing) if mount.rank() < existing.rank() => *existing = mount,
            Some(_) => {}
        }
    }
    let mut rows: Vec<(String, Value)> = chosen
        .into_iter()
        .filter_map(|mount| {
            let stat = rustix::fs::statvfs(mount.path.as_str()).ok()?;
            let whole_kib = |bytes: u64| bytes.div_ceil(1024) * 1024;
            let total = whole_kib(stat.f_blocks * stat.f_frsize);
            let available = whole_kib(stat.f_bavail * stat.f_frsize);
            let row =
                json!({ "path": mount.path, "totalBytes": total, "availableBytes": available });
            (total > 0).then_some((mount.path, row))
        })
        .collect();
    rows.sort_by(|a, b| a.0.cmp(&b.0));
    rows.into_iter().map(|(_, row)| row).collect()
}

#[derive(Debug, Clone, PartialEq)]
struct Mount {
    id: String,
    parent: String,
    device: String,
    root: String,
    path: String,
    kind: String,
    source: String,
}

impl Mount {
    /// Lower is better: a whole file system, then the shorter path, then the first by name.
    fn rank(&self) -> (bool, usize, &str) {
        (self.root != "/", self.path.len(), &self.path)
    }
}

fn parse_mounts(text: &str) -> Vec<Mount> {
    text.lines()
        .filter_map(|line| {
            let (mount, filesystem) = line.split_once(" - ")?;
            let mut fields = mount.split(' ').map(str::to_owned);
            let mut kind = filesystem.split(' ').map(str::to_owned);
            Some(Mount {
                id: fields.next()?,
                parent: fields.next()?,
                device: fields.next()?,
                root: fields.next()?,
                path: unescape(&fields.next()?),
                kind: kind.next()?,
                source: kind.next()?,
            })
        })
        .collect()
}

/// Leaves out what a later mount on the same path, or on one above it, covers.
fn visible_mounts(mounts: Vec<Mount>) -> Vec<Mount> {
    let covered = |mount: &Mount| {
        mounts.iter().any(|other| {
            let below = mount
                .path
                .starts_with(&format!("{}/", other.path.trim_end_matches('/')));
            (other.parent == mount.id && other.path == mount.path)
                || (other.parent == mount.parent
                    && other.id != mount.id
                    && below
                    && other.path != mount.path)
        })
    };
    mounts
        .iter()
        .filter(|mount| !covered(mount))
        .cloned()
        .collect()
}

/// `\040` and the like, as the kernel escapes white space in paths.
fn unescape(path: &str) -> String {
    [
        ("\\040", " "),
        ("\\011", "\t"),
        ("\\012", "\n"),
        ("\\134", "\\"),
    ]
    .iter()
    .fold(path.to_owned(), |path, (from, to)| path.replace(from, to))
}

fn read(file: &str) -> String {
    std::fs::read_to_string(file).unwrap_or_default()
}

/// `name : value` of a file under /proc.
fn field(text: &str, name: &str) -> Option<String> {
    let line = text.lines().find(|line| line.starts_with(name))?;
    let value = line.split_once(':')?.1.trim();
    (!value.is_empty()).then(|| value.to_owned())
}

fn kilobytes(meminfo: &str, name: &str) -> u64 {
    field(meminfo, name)
        .and_then(|value| value.split(' ').next()?.parse::<u64>().ok())
        .map_or(0, |kib| kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn local_addresses_are_found_without_loopback() {
        let trie = "Main:\n  +-- 0.0.0.0/0 3 0 5\n     |-- 192.0.2.0\n        /24 link UNICAST\n     |-- 192.0.2.2\n        /32 host LOCAL\n     |-- 127.0.0.1\n        /32 host LOCAL\nLocal:\n     |-- 192.0.2.2\n        /32 host LOCAL\n";
        assert_eq!(local_addresses(trie), [Ipv4Addr::new(192, 0, 2, 2)]);
    }

    #[test]
    fn one_row_per_device_and_no_covered_mounts() {
        let mounts = parse_mounts(
            "1 0 8:1 / / rw - ext4 /dev/a rw\n\
             2 1 8:1 /sub /mnt/bind rw - ext4 /dev/a rw\n\
             3 1 8:2 / /data\\040x rw - ext4 /dev/b rw\n\
             4 3 0:9 / /data\\040x rw - tmpfs tmpfs rw\n",
        );
        let visible: Vec<_> = visible_mounts(mounts)
            .into_iter()
            .map(|mount| mount.path)
            .collect();
        assert_eq!(visible, ["/", "/mnt/bind", "/data x"]);
        assert_eq!(visible.len(), 3);
    }
}
