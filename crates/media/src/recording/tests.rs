//! Files that ffmpeg wrote, judged by what ffprobe said of them (`fixtures/make.sh` makes both again), and what is wrong with them.

use std::cell::Cell;
use std::io::{Cursor, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::{Recording, Stream, StreamKind, record};
use crate::MediaError;

fn fixtures() -> Vec<(PathBuf, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/recording/fixtures");
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder)
        .expect("a folder")
        .map(|entry| entry.expect("an entry").path())
        .filter(|file| file.with_added_extension("json").exists())
        .collect();
    files.sort();
    assert_eq!(files.len(), 18);
    let read = |file: PathBuf| {
        let data = std::fs::read(&file).expect("readable");
        (file, data)
    };
    files.into_iter().map(read).collect()
}

fn recorded(data: &[u8]) -> Result<Recording, MediaError> {
    record(Cursor::new(data))
}

fn number(value: &Value) -> Option<f64> {
    let text = value.as_str()?;
    match text.split_once('/') {
        Some((above, below)) => {
            let (above, below) = (above.parse::<f64>().ok()?, below.parse::<f64>().ok()?);
            (below > 0.0).then(|| above / below)
        }
        None => text.parse().ok(),
    }
}

/// What of a fixture is not as ffprobe has it, as `file stream field: ours, theirs`. Times to a part in a thousand.
fn differences(name: &str, found: &Recording, said: &Value) -> Vec<String> {
    let mut different = Vec::new();
    let mut compare = |what: String, ours: Option<f64>, theirs: Option<f64>, share: f64| {
        let is_same = match (ours, theirs) {
            (Some(ours), Some(theirs)) => (ours - theirs).abs() <= theirs.abs() * share,
            (ours, theirs) => ours.is_none() && theirs.is_none(),
        };
        if !is_same {
            let text = |value: Option<f64>| value.map_or("-".to_owned(), |v| format!("{v:.4}"));
            different.push(format!("{name} {what}: {}, {}", text(ours), text(theirs)));
        }
    };
    let format = &said["format"];
    let file = |field: &str| format!("file {field}");
    compare(
        file("duration"),
        found.duration_s,
        number(&format["duration"]),
        1e-3,
    );
    let bits = found.bit_rate.map(|rate| rate as f64);
    compare(file("bit rate"), bits, number(&format["bit_rate"]), 1e-3);
    for (ours, theirs) in found
        .streams
        .iter()
        .zip(said["streams"].as_array().expect("streams"))
    {
        let field = |field: &str| format!("{} {field}", ours.codec);
        let theirs_number = |name: &str| theirs[name].as_f64();
        let coded = ours
            .coded
            .map(|(width, height)| (f64::from(width), f64::from(height)));
        compare(
            field("width"),
            coded.map(|side| side.0),
            theirs_number("width"),
            0.0,
        );
        compare(
            field("height"),
            coded.map(|side| side.1),
            theirs_number("height"),
            0.0,
        );
        let is_video = ours.kind == StreamKind::Video;
        // The shape of a pixel is theirs, the size to be shown ours.
        let shape = theirs["sample_aspect_ratio"].as_str();
        let shape = shape.and_then(|ratio| number(&Value::from(ratio.replace(':', "/"))));
        let shown = theirs_number("width")
            .zip(shape)
            .map(|(width, shape)| (width * shape).round());
        let display = ours
            .display
            .map(|display| super::turned(display, ours.rotation));
        compare(
            field("shown width"),
            display.map(|side| side.0.into()),
            shown,
            0.0,
        );
        let height = theirs_number("height");
        compare(
            field("shown height"),
            display.map(|side| side.1.into()),
            height,
            0.0,
        );
        // It counts counter-clockwise.
        let turn = theirs["side_data_list"][0]["rotation"]
            .as_f64()
            .unwrap_or(0.0);
        compare(
            field("rotation"),
            Some(ours.rotation.into()),
            Some((-turn).rem_euclid(360.0)),
            0.0,
        );
        let rate = number(&theirs["avg_frame_rate"]).filter(|_| is_video);
        compare(field("frames a second"), ours.frame_rate, rate, 1e-3);
        compare(
            field("channels"),
            ours.channels.map(f64::from),
            theirs_number("channels"),
            0.0,
        );
        compare(
            field("samples a second"),
            ours.sample_rate.map(f64::from),
            number(&theirs["sample_rate"]),
            0.0,
        );
        compare(
            field("duration"),
            ours.duration_s,
            number(&theirs["duration"]),
            1e-3,
        );
        let bits = ours.bit_rate.map(|rate| rate as f64);
        compare(field("bit rate"), bits, number(&theirs["bit_rate"]), 1e-3);
    }
    different
}

#[test]
fn every_fact_is_as_ffprobe_has_it() {
    let mut different = Vec::new();
    for (file, data) in fixtures() {
        let name = file.file_name().expect("a name").to_string_lossy();
        let said = std::fs::read(file.with_added_extension("json")).expect("readable");
        let said: Value = serde_json::from_slice(&said).expect("JSON");
        let found = recorded(&data).unwrap_or_else(|error| panic!("{name}: {error}"));
        let extension = file.extension().and_then(|extension| extension.to_str());
        assert_eq!(Some(found.container.name()), extension, "{name}");
        let kinds: Vec<_> = found
            .streams
            .iter()
            .map(|stream| (stream.kind.name(), &*stream.codec))
            .collect();
        let text = |stream: &Value, field: &str| stream[field].as_str().expect("text").to_owned();
        let theirs = said["streams"].as_array().expect("streams").iter();
        let theirs: Vec<_> = theirs
            .map(|stream| (text(stream, "codec_type"), text(stream, "codec_name")))
            .collect();
        let theirs: Vec<_> = theirs
            .iter()
            .map(|(kind, codec)| (&**kind, &**codec))
            .collect();
        assert_eq!(kinds, theirs, "{name}");
        different.extend(differences(&name, &found, &said));
    }
    assert_eq!(different, KNOWN);
}

/// As `file stream field: ours, theirs`.
const KNOWN: [&str; 6] = [
    // The same frames outside of fragments have the rate that is ours, by ffprobe as well.
    "fragments.mp4 h264 bit rate: 13613.0000, 10433.0000",
    "fragments.mp4 aac bit rate: 30800.0000, 23981.0000",
    // It counts the 312 samples that a player leaves out. RFC 7845, 4.3, does not.
    "voice.ogg file duration: 1.2000, 1.2065",
    "voice.ogg file bit rate: 18560.0000, 18460.0000",
    "voice.ogg opus duration: 1.2000, 1.2065",
    // From the first frame of sound; the container does not say.
    "wide.mkv mp3 bit rate: -, 32000.0000",
];

/// Counts what is read.
struct Counted<'a> {
    source: Cursor<&'a [u8]>,
    read: &'a Cell<u64>,
}

impl Read for Counted<'_> {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        let count = self.source.read(into)?;
        self.read.set(self.read.get() + count as u64);
        Ok(count)
    }
}

impl Seek for Counted<'_> {
    fn seek(&mut self, to: SeekFrom) -> std::io::Result<u64> {
        self.source.seek(to)
    }
}

/// Whatever they are, these bytes have an answer that contradicts nothing, for no more than a few times themselves.
fn bounded(data: &[u8], what: &dyn Fn() -> String) {
    let read = Cell::new(0);
    let source = Cursor::new(data);
    let outcome = record(Counted {
        source,
        read: &read,
    });
    // Places that are far apart cost a buffer each.
    let bound = 8 * data.len() as u64 + (1 << 20);
    assert!(read.get() <= bound, "{}: {} bytes read", what(), read.get());
    match outcome {
        Ok(found) => {
            assert!((1..=64).contains(&found.streams.len()), "{}", what());
            let all = found.streams.iter().map(|stream| stream.duration_s);
            for seconds in all.chain([found.duration_s]).flatten() {
                assert!(
                    seconds.is_finite() && seconds > 0.0,
                    "{}: {seconds} s",
                    what()
                );
            }
        }
        Err(error) => assert!(
            matches!(error.code(), "broken" | "unsupported" | "limit"),
            "{}: {error}",
            what()
        ),
    }
}

#[test]
fn a_file_cut_anywhere_is_a_recording_or_an_error_and_costs_nothing() {
    for (file, data) in fixtures() {
        // Every byte of the headers, wherever they are, and of the frames between them some.
        let (head, tail) = (2500.min(data.len()), data.len().saturating_sub(2500));
        let between = (head..tail).step_by(37);
        for cut in (0..head).chain(between).chain(tail.max(head)..data.len()) {
            bounded(&data[..cut], &|| {
                format!("{}, cut at {cut}", file.display())
            });
        }
    }
}

#[test]
fn bits_turned_and_bytes_changed_pass_no_bound() {
    // A small generator of our own: the same changes each time.
    let mut state = 0x2545_F491_4F6C_DD1D_u64;
    let mut next = |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % below as u64) as usize
    };
    for (file, data) in fixtures() {
        let mut changed = data.clone();
        let step = data.len() / 3000 + 1;
        for at in (0..data.len()).step_by(step) {
            let bit = next(8);
            changed[at] ^= 1 << bit;
            bounded(&changed, &|| {
                format!("{}, bit {bit} of {at}", file.display())
            });
            changed[at] = data[at];
        }
        for turn in 0..300 {
            let mut changed = data.clone();
            for _ in 0..8 {
                let at = match turn % 2 {
                    0 => next(changed.len().min(4096)),
                    _ => changed.len() - 1 - next(changed.len().min(4096)),
                };
                changed[at] = next(256) as u8;
            }
            bounded(&changed, &|| format!("{}, turn {turn}", file.display()));
        }
    }
}

fn boxed(kind: &[u8; 4], body: &[u8]) -> Vec<u8> {
    let size = u32::try_from(body.len() + 8).expect("small");
    [&size.to_be_bytes()[..], kind, body].concat()
}

#[test]
fn hostile_boxes_are_refused() {
    let code = |data: &[u8]| recorded(data).map_err(|error| error.code());
    let head = boxed(b"ftyp", b"isom\0\0\0\0");
    // One in the other, without end.
    let mut deep = Vec::new();
    for _ in 0..2000 {
        deep = boxed(b"moov", &deep);
    }
    assert_eq!(code(&[&head[..], &deep].concat()), Err("broken"));
    // A million empty ones.
    let many = boxed(b"free", b"").repeat(1_000_000);
    assert_eq!(code(&[&head[..], &many].concat()), Err("limit"));
    // More streams than anybody has.
    let tracks = boxed(b"moov", &boxed(b"trak", b"").repeat(1000));
    assert_eq!(code(&[&head[..], &tracks].concat()), Err("limit"));
    // A stream of which nothing is said, in an index that is whole and in one that is not.
    let bare = boxed(b"moov", &boxed(b"trak", b""));
    let found = recorded(&[&head[..], &bare].concat()).expect("a stream");
    assert_eq!(found.streams[0].codec, "unknown");
    assert_eq!(code(&[&head[..], &bare[..15]].concat()), Err("broken"));
    // A table that says it has four billion entries.
    let table = boxed(b"stsz", &[&[0; 8][..], &[0xFF; 4]].concat());
    let stream = boxed(
        b"moov",
        &boxed(
            b"trak",
            &boxed(b"mdia", &boxed(b"minf", &boxed(b"stbl", &table))),
        ),
    );
    assert!(code(&[&head[..], &stream].concat()).is_ok_and(|found| found.duration_s.is_none()));
    // Sizes that say nothing, or everything.
    for size in [
        [
            0, 0, 0, 1, b'f', b'r', b'e', b'e', 255, 255, 255, 255, 255, 255, 255, 255,
        ],
        [0; 16],
    ] {
        assert_eq!(code(&[&head[..], &size].concat()), Err("broken"));
    }
    // An element that is in itself, by saying that it has no end.
    let unending = [0x18, 0x53, 0x80, 0x67, 0xFF].repeat(5000);
    let webm = [
        &[0x1A, 0x45, 0xDF, 0xA3, 0x84, 0x42, 0x86, 0x81, 1][..],
        &unending,
    ]
    .concat();
    assert_eq!(code(&webm), Err("broken"));
}

#[test]
fn what_begins_in_an_index_goes_on_in_fragments() {
    let be = |numbers: &[u32]| -> Vec<u8> {
        let bytes = numbers.iter().flat_map(|number| number.to_be_bytes());
        bytes.collect()
    };
    // A second of ten samples of 100 bytes each.
    let table = boxed(b"stbl", &boxed(b"stsz", &be(&[0, 100, 10])));
    let times = boxed(b"mdhd", &be(&[0, 0, 0, 1000, 1000, 0]));
    let shape = boxed(b"tkhd", &be(&[0, 0, 0, 1, 0, 1000]));
    let media = boxed(b"mdia", &[times, boxed(b"minf", &table)].concat());
    let track = boxed(b"trak", &[shape, media].concat());
    let movie = boxed(b"mvhd", &be(&[0, 0, 0, 1000, 1000, 0]));
    let file = |size: u32, run: &[u32]| {
        let more = boxed(b"mvex", &boxed(b"trex", &be(&[0, 1, 1, 100, size, 0])));
        let moov = boxed(b"moov", &[movie.clone(), track.clone(), more].concat());
        let of = boxed(b"tfhd", &be(&[0, 1]));
        let piece = boxed(b"traf", &[of, boxed(b"trun", &be(run))].concat());
        let head = boxed(b"ftyp", b"isom\0\0\0\0");
        let data = [head, moov, boxed(b"moof", &piece)].concat();
        recorded(&data).expect("a recording")
    };
    // As many more, of the usual size, of none that is said, and fewer than are said.
    for (size, run, length, rate) in [
        (300, &[0, 10][..], 2.0, Some(16_000)),
        (0, &[0, 10], 2.0, None),
        (0, &[0x200, 1000, 700, 700], 1.2, Some(16_000)),
    ] {
        let found = file(size, run);
        let stream = &found.streams[0];
        assert_eq!(
            (found.duration_s, stream.duration_s),
            (Some(length), Some(length))
        );
        assert_eq!(stream.bit_rate, rate, "{run:?}");
    }
}

#[test]
fn lists_cut_short_and_streams_on_air_are_told_as_such() {
    // 6 of 20 bytes of tracks.
    let tracks = [0x16_u8, 0x54, 0xAE, 0x6B, 0x94, 0xAE, 0x83, 0x83, 0x81, 1];
    let head = [0x1A_u8, 0x45, 0xDF, 0xA3, 0x84, 0x42, 0x86, 0x81, 1];
    let open = [0x18_u8, 0x53, 0x80, 0x67, 0xFF];
    let cut = recorded(&[&head[..], &open, &tracks].concat());
    assert_eq!(cut.map_err(|error| error.code()), Err("broken"));

    let page = |flags: u8, position: u64, body: &[u8]| {
        let mut page = b"OggS\0".to_vec();
        page.push(flags);
        page.extend_from_slice(&position.to_le_bytes());
        page.extend_from_slice(&[7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
        page.push(u8::try_from(body.len()).expect("short"));
        page.extend_from_slice(body);
        page
    };
    let opus = page(2, 0, b"OpusHead\x01\x02\0\0\x80\xBB\0\0\0\0\0");
    let length = |first: u64, last: u64| {
        let data = [&opus[..], &page(0, first, b"x"), &page(4, last, b"x")].concat();
        recorded(&data).expect("a recording").duration_s
    };
    assert_eq!(length(48_000, 480_000), Some(10.0));
    assert_eq!(length(48_000_000, 48_480_000), None);
}

/// The same bytes again and again, for the memory of one time.
struct Repeated {
    unit: Vec<u8>,
    at: u64,
    len: u64,
}

impl Read for Repeated {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        let from = (self.at % self.unit.len() as u64) as usize;
        let there = &self.unit[from..];
        let count = there.len().min(into.len());
        into[..count].copy_from_slice(&there[..count]);
        self.at += count as u64;
        Ok(count)
    }
}

impl Seek for Repeated {
    fn seek(&mut self, to: SeekFrom) -> std::io::Result<u64> {
        self.at = match to {
            SeekFrom::Start(at) => at,
            SeekFrom::End(step) => self.len.saturating_add_signed(step),
            SeekFrom::Current(step) => self.at.saturating_add_signed(step),
        };
        Ok(self.at)
    }
}

#[test]
fn a_file_of_nothing_but_tables_is_read_to_a_bound() {
    let unit = [boxed(b"mdat", &[0; 8]), boxed(b"sidx", &[0; 1 << 16])].concat();
    let len = unit.len() as u64 * 4000;
    let error = record(Repeated { unit, at: 0, len }).expect_err("a quarter of a gigabyte");
    let MediaError::Limit { what, have, limit } = error else {
        panic!("{error}")
    };
    assert_eq!((what, limit), ("bytes of headers", 64 << 20));
    assert!(have - limit <= 1 << 16, "{have}");
}

#[test]
fn what_is_no_recording_is_named() {
    for data in [
        &b""[..],
        b"RIFF\0\0\0\0WEBP",
        b"\xFF\xD8\xFF\xE0",
        b"text",
        b"\0\0\0\x20ftypavif",
    ] {
        let error = recorded(data).expect_err("none");
        assert_eq!(error.code(), "unsupported", "{data:?}: {error}");
    }
    let stream = Stream::default();
    assert_eq!((stream.kind, stream.rotation), (StreamKind::Data, 0));
}
