//! Whole runs over made and hostile files; readers that are not ours judge what we write.

use crate::{
    Cancel, Crop, Fit, Format, Limits, MediaError, Options, Output, Target, cost, probe, process,
};
use image::GenericImageView as _;
use std::io::Cursor;

/// A smooth picture with an edge, so that coding errors show.
fn picture(width: u32, height: u32) -> image::RgbImage {
    image::RgbImage::from_fn(width, height, |x, y| {
        let shade = |n: u32, of: u32| u8::try_from(n * 255 / of.max(1)).unwrap_or(255);
        let blue = if x > width / 2 { 200 } else { 40 };
        image::Rgb([shade(x, width), shade(y, height), blue])
    })
}

fn file(image: &image::RgbImage, format: image::ImageFormat) -> Vec<u8> {
    let mut out = Cursor::new(Vec::new());
    let image = image::DynamicImage::ImageRgb8(image.clone());
    // An icon holds RGBA alone.
    let image = if format == image::ImageFormat::Ico {
        image.into_rgba8().into()
    } else {
        image
    };
    image
        .write_to(&mut out, format)
        .expect("the image crate writes it");
    out.into_inner()
}

fn jpeg(image: &image::RgbImage, subsamp: turbojpeg::Subsamp) -> Vec<u8> {
    let (width, height) = (image.width() as usize, image.height() as usize);
    let pixels = turbojpeg::Image {
        pixels: image.as_raw().as_slice(),
        width,
        pitch: width * 3,
        height,
        format: turbojpeg::PixelFormat::RGB,
    };
    turbojpeg::compress(pixels, 95, subsamp)
        .expect("a JPEG")
        .to_vec()
}

/// `jpeg` with an EXIF block that says `orientation` and nothing else.
fn turned(jpeg: &[u8], orientation: u8) -> Vec<u8> {
    let mut exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0".to_vec();
    exif.extend_from_slice(&[orientation, 0, 0, 0, 0, 0, 0]);
    let length = u16::try_from(exif.len() + 2)
        .expect("a short block")
        .to_be_bytes();
    [&jpeg[..2], &[0xFF, 0xE1], &length, &exif, &jpeg[2..]].concat()
}

fn run(data: &[u8], options: &Options) -> Result<Output, MediaError> {
    process(data, options, &Limits::default(), &Cancel::default())
}

fn inside(side: u32) -> Options {
    Options {
        max_width: Some(side),
        max_height: Some(side),
        ..Options::default()
    }
}

/// Mean absolute difference per byte between a file we wrote and the expected picture.
fn difference(data: &[u8], expected: &image::RgbImage) -> f64 {
    let pixels = if data.starts_with(&[0xFF, 0xD8]) {
        let image = turbojpeg::decompress(data, turbojpeg::PixelFormat::RGB).expect("a JPEG");
        assert_eq!(
            (image.width, image.height),
            (expected.width() as usize, expected.height() as usize)
        );
        image.pixels
    } else {
        let image = image::load_from_memory(data).expect("readable");
        assert_eq!(image.dimensions(), expected.dimensions());
        image.into_rgb8().into_raw()
    };
    let sum: u64 = pixels
        .iter()
        .zip(expected.as_raw())
        .map(|(&a, &b)| u64::from(a.abs_diff(b)))
        .sum();
    #[expect(clippy::cast_precision_loss, reason = "sums of a small picture")]
    let mean = sum as f64 / pixels.len() as f64;
    mean
}

#[test]
fn jpegs_of_every_subsampling_stay_the_same_picture() {
    use turbojpeg::Subsamp::{Gray, None, Sub1x2, Sub2x1, Sub2x2, Sub4x1};
    // Odd sides: planes are then rounded up, and the picture must not be.
    for (width, height) in [(321, 241), (640, 480), (129, 65)] {
        let source = picture(width, height);
        for subsamp in [None, Sub2x1, Sub2x2, Sub1x2, Sub4x1] {
            let fitted = run(&jpeg(&source, subsamp), &inside(width / 2)).expect("a picture");
            let expected = picture(fitted.width, fitted.height);
            let off = difference(&fitted.data, &expected);
            assert!(off < 4.0, "{subsamp:?} {width}x{height}: {off}");
        }
        let grey = run(&jpeg(&source, Gray), &inside(width / 2)).expect("a picture");
        assert_eq!(Format::sniff(&grey.data), Ok(Format::Jpeg));
    }
}

#[test]
fn large_shrinks_go_over_a_scaled_decode() {
    for (from, to) in [(1600, 180), (1600, 300), (1600, 500), (1600, 799)] {
        let source = picture(from, from * 3 / 4);
        let fitted =
            run(&jpeg(&source, turbojpeg::Subsamp::Sub2x2), &inside(to)).expect("a picture");
        assert_eq!((fitted.width, fitted.height), (to, (to * 3 + 2) / 4));
        let off = difference(&fitted.data, &picture(fitted.width, fitted.height));
        assert!(off < 4.0, "{from} to {to}: {off}");
    }
}

#[test]
fn orientation_is_carried_out_in_the_turned_box() {
    let source = picture(320, 160);
    let plain = jpeg(&source, turbojpeg::Subsamp::Sub2x2);
    let upright = image::DynamicImage::ImageRgb8(picture(80, 40));
    for orientation in 1..=8 {
        let file = turned(&plain, orientation);
        assert_eq!(
            probe(&file, &Limits::default())
                .expect("headers")
                .orientation,
            orientation
        );
        let expected = match orientation {
            2 => upright.fliph(),
            3 => upright.rotate180(),
            4 => upright.flipv(),
            5 => upright.rotate90().fliph(),
            6 => upright.rotate90(),
            7 => upright.rotate270().fliph(),
            8 => upright.rotate270(),
            _ => upright.clone(),
        };
        for target in [Target::Same, Target::Format(Format::Png)] {
            let options = Options {
                target,
                ..inside(80)
            };
            let fitted = run(&file, &options).expect("a picture");
            let off = difference(&fitted.data, &expected.to_rgb8());
            assert!(off < 5.0, "orientation {orientation}: {off}");
        }
    }
}

#[test]
fn every_source_becomes_every_target() {
    use image::ImageFormat::{Bmp, Gif, Ico, Png, Tiff, WebP};
    let source = picture(128, 96);
    for from in [Png, Bmp, Gif, Ico, Tiff, WebP] {
        let data = file(&source, from);
        let metadata = probe(&data, &Limits::default()).expect("headers");
        assert_eq!(
            (metadata.width, metadata.height, metadata.frames),
            (128, 96, 1),
            "{from:?}"
        );
        for to in [Format::Jpeg, Format::Png, Format::WebP, Format::Gif] {
            let options = Options {
                target: Target::Format(to),
                ..inside(64)
            };
            let made = run(&data, &options).expect("a picture");
            assert_eq!(Format::sniff(&made.data), Ok(to), "{from:?}");
            let off = difference(&made.data, &picture(64, 48));
            assert!(off < 12.0, "{from:?} to {to:?}: {off}");
        }
    }
}

#[test]
fn auto_takes_the_smallest_and_transparency_survives() {
    let clear = image::RgbaImage::from_fn(64, 64, |x, _| {
        image::Rgba([10, 20, 30, if x < 32 { 0 } else { 255 }])
    });
    let mut png = Cursor::new(Vec::new());
    clear
        .write_to(&mut png, image::ImageFormat::Png)
        .expect("a PNG");
    let auto = Options {
        target: Target::Auto,
        ..Options::default()
    };
    let made = run(png.get_ref(), &auto).expect("a picture");
    let read = image::load_from_memory(&made.data)
        .expect("readable")
        .into_rgba8();
    assert_eq!(
        (read.get_pixel(0, 0)[3], read.get_pixel(63, 0)[3]),
        (0, 255)
    );

    let flat = Options {
        target: Target::Format(Format::Jpeg),
        background: [255, 0, 0],
        ..Options::default()
    };
    let made = run(png.get_ref(), &flat).expect("a picture");
    let read = turbojpeg::decompress(&made.data, turbojpeg::PixelFormat::RGB).expect("a JPEG");
    assert!(
        read.pixels[0] > 240 && read.pixels[1] < 20,
        "the background shows"
    );
}

#[test]
fn animations_keep_their_frames() {
    let mut gif = Vec::new();
    let mut writer = image::codecs::gif::GifEncoder::new(&mut gif);
    for shade in [0, 100, 200] {
        let image = image::RgbaImage::from_pixel(60, 40, image::Rgba([shade, 50, 50, 255]));
        let delay = image::Delay::from_numer_denom_ms(50, 1);
        writer
            .encode_frame(image::Frame::from_parts(image, 0, 0, delay))
            .expect("a frame");
    }
    drop(writer);
    assert_eq!(probe(&gif, &Limits::default()).expect("headers").frames, 3);
    for to in [Format::Gif, Format::WebP] {
        let options = Options {
            target: Target::Format(to),
            ..inside(30)
        };
        let made = run(&gif, &options).expect("an animation");
        assert_eq!((made.width, made.height, made.frames), (30, 20, 3));
        assert_eq!(
            probe(&made.data, &Limits::default())
                .expect("headers")
                .frames,
            3,
            "{to:?}"
        );
    }
    let few = Limits {
        frames: 2,
        ..Limits::default()
    };
    let options = Options {
        target: Target::Format(Format::Gif),
        ..inside(30)
    };
    let refused = process(&gif, &options, &few, &Cancel::default());
    assert_eq!(
        refused,
        Err(MediaError::Limit {
            what: "frame count",
            have: 3,
            limit: 2
        })
    );
    // Made larger, each is within the limit, and all of them are not.
    let options = Options {
        target: Target::Format(Format::WebP),
        enlarge: true,
        ..inside(900)
    };
    let tight = Limits {
        animation_pixels: 1_000_000,
        ..Limits::default()
    };
    assert_eq!(
        process(&gif, &options, &tight, &Cancel::default()),
        Err(MediaError::Limit {
            what: "pixel count of all frames",
            have: 1_620_000,
            limit: 1_000_000
        })
    );
}

#[test]
fn bytes_are_kept_by_quality_then_size() {
    let noise = image::RgbImage::from_fn(600, 400, |x, y| {
        let mixed = x.wrapping_mul(2_654_435_761) ^ y.wrapping_mul(40_503).rotate_left(7);
        let byte = |shift: u32| u8::try_from(mixed.wrapping_mul(shift) >> 24).unwrap_or(0);
        image::Rgb([byte(31), byte(77), byte(1_299_709)])
    });
    let source = jpeg(&noise, turbojpeg::Subsamp::Sub2x2);
    let most = 20_000;
    let made = run(
        &source,
        &Options {
            max_bytes: Some(most),
            ..Options::default()
        },
    )
    .expect("a picture");
    assert!(
        made.data.len() <= most && made.width < 600,
        "{} bytes, {} wide",
        made.data.len(),
        made.width
    );
    let refused = run(
        &source,
        &Options {
            max_bytes: Some(10),
            ..Options::default()
        },
    );
    assert_eq!(refused.map_err(|e| e.code()), Err("limit"));
}

#[test]
fn kinds_that_are_known_and_not_read_say_what_to_do() {
    for (head, kind, advice) in [
        (
            &b"\0\0\0\x1Cftypavif\0\0\0\0mif1miaf"[..],
            Format::Avif,
            "ffmpeg -i",
        ),
        (
            b"\0\0\0\x1Cftypmif1\0\0\0\0miafavif",
            Format::Avif,
            "ffmpeg -i",
        ),
        (
            b"\0\0\0\x18ftypheic\0\0\0\0mif1heic",
            Format::Heic,
            "Most Compatible",
        ),
        (
            b"\0\0\0\x18ftypmif1\0\0\0\0heic",
            Format::Heic,
            "heif-convert",
        ),
        (
            b"<svg xmlns='http://www.w3.org/2000/svg'/>",
            Format::Svg,
            "rsvg-convert",
        ),
        (
            b"\xEF\xBB\xBF<?xml version='1.0'?>\n<svg/>",
            Format::Svg,
            "rsvg-convert",
        ),
        (
            b"<!-- drawn --><!DOCTYPE svg><svg/>",
            Format::Svg,
            "rsvg-convert",
        ),
    ] {
        assert_eq!(Format::sniff(head), Ok(kind));
        assert_eq!(crate::Container::sniff(head), None);
        for error in [
            run(head, &inside(10)).expect_err("not read"),
            probe(head, &Limits::default()).expect_err("not read"),
        ] {
            assert_eq!(error.code(), "unsupported");
            assert!(error.to_string().contains(advice), "{error}");
        }
    }
    for other in [
        &b"\0\0\0\x18ftypisom\0\0\0\0avif"[..],
        b"<!-- <html> --><p>",
        b"<?xml?><rss>",
    ] {
        assert_eq!(
            Format::sniff(other).map_err(|e| e.code()),
            Err("unsupported")
        );
    }
}

#[test]
fn hostile_files_are_errors_before_they_cost() {
    // 65,500 × 65,500 in a few hundred bytes.
    let mut bomb = jpeg(&picture(16, 16), turbojpeg::Subsamp::Sub2x2);
    let frame = bomb
        .windows(2)
        .position(|pair| pair == [0xFF, 0xC0])
        .expect("a frame header");
    bomb[frame + 5..frame + 9].copy_from_slice(&[0xFF, 0xDC, 0xFF, 0xDC]);
    assert_eq!(run(&bomb, &inside(100)).map_err(|e| e.code()), Err("limit"));

    let mut bomb = file(&picture(16, 16), image::ImageFormat::Png);
    bomb[16..24].copy_from_slice(&[0, 1, 0, 0, 0, 1, 0, 0]);
    assert_eq!(run(&bomb, &inside(100)).map_err(|e| e.code()), Err("limit"));

    // An ICC profile of 64 MiB of zeroes in 64 KiB.
    let zeroes = vec![0; 64 << 20];
    let mut zlib = libdeflater::Compressor::new(libdeflater::CompressionLvl::default());
    let mut packed = vec![0; zlib.zlib_compress_bound(zeroes.len())];
    let length = zlib
        .zlib_compress(&zeroes, &mut packed)
        .expect("compressed");
    let body = [b"iCCPx\0\0".as_slice(), &packed[..length]].concat();
    let size = u32::try_from(body.len() - 4).expect("small").to_be_bytes();
    let plain = file(&picture(16, 16), image::ImageFormat::Png);
    let sum = crc32fast::hash(&body).to_be_bytes();
    let bomb = [&plain[..33], &size, &body, &sum, &plain[33..]].concat();
    assert_eq!(run(&bomb, &inside(8)).map_err(|e| e.code()), Err("limit"));

    for junk in [
        b"".as_slice(),
        b"\xFF\xD8\xFF",
        b"GIF89a",
        b"RIFF\0\0\0\0WEBP",
        b"MZ\x90\0",
        b"<html>",
    ] {
        assert!(run(junk, &inside(10)).is_err());
    }
}

/// With one more chunk, at such a place.
fn chunked(png: &[u8], at: usize, kind: &[u8; 4], body: &[u8]) -> Vec<u8> {
    let size = u32::try_from(body.len()).expect("small").to_be_bytes();
    let named = [kind.as_slice(), body].concat();
    let sum = crc32fast::hash(&named).to_be_bytes();
    [&png[..at], &size, &named, &sum, &png[at..]].concat()
}

#[test]
fn what_would_take_more_memory_than_its_pixels_is_refused() {
    let code = |data: &[u8], options: &Options| run(data, options).map_err(|error| error.code());
    // Wide, to be made high: both have few pixels, what is between them has two billion.
    let wide = file(&picture(50_000, 2), image::ImageFormat::Png);
    let high = Options {
        max_width: Some(2),
        max_height: Some(50_000),
        fit: Fit::Exact,
        enlarge: true,
        ..Options::default()
    };
    assert_eq!(code(&wide, &high), Err("limit"));
    let found = probe(&wide, &Limits::default()).expect("headers");
    assert!(cost(&found, &high).expect("a cost") > 10_000_000_000);
    let plain = file(&picture(16, 16), image::ImageFormat::Png);
    let found = probe(&plain, &Limits::default()).expect("headers");
    assert!(cost(&found, &Options::default()).expect("a cost") < 10_000);
    let larger = Options {
        enlarge: true,
        ..inside(7000)
    };
    assert!(cost(&found, &larger).expect("a cost") > 900_000_000);
    // A row of ten million.
    let mut row = plain.clone();
    row[16..24].copy_from_slice(&[0, 0x98, 0x96, 0x80, 0, 0, 0, 1]);
    assert_eq!(code(&row, &inside(8)), Err("limit"));
    // Two headers: the first is the one that is decoded.
    let large = [0_u8, 1, 0, 0, 0, 1, 0, 0, 8, 2, 0, 0, 0];
    let twice = chunked(&plain, 8, b"IHDR", &large);
    assert_eq!(code(&twice, &inside(8)), Err("limit"));
    // A text of nothing, of which a reader makes a string for each byte.
    let text = [
        &b"MM\0*\0\0\0\x08\0\x01\x01\x0F\0\x02\0\x04\0\0\0\0\0\x1A\0\0\0\0"[..],
        &vec![0; 300 << 10],
    ]
    .concat();
    let noted = chunked(&plain, 33, b"eXIf", &text);
    assert_eq!(
        probe(&noted, &Limits::default()).expect("headers").exif,
        None
    );
    // Two frames, each four billion times its screen.
    let frame = [
        0x2C_u8, 0, 0, 0, 0, 0xFF, 0xFF, 0xFF, 0xFF, 0, 2, 2, 0x4C, 1, 0,
    ];
    let screen = b"GIF89a\x01\0\x01\0\x80\0\0\0\0\0\xFF\xFF\xFF";
    let gif = [&screen[..], &frame, &frame, b";"].concat();
    for kind in [Format::Gif, Format::Png] {
        let options = Options {
            target: Target::Format(kind),
            ..Options::default()
        };
        assert_eq!(code(&gif, &options), Err("broken"), "{kind:?}");
    }
}

#[test]
fn files_cut_anywhere_never_panic() {
    use image::ImageFormat::{Bmp, Gif, Ico, Png, Tiff, WebP};
    let source = picture(40, 30);
    let mut files: Vec<_> = [Png, Bmp, Gif, Ico, Tiff, WebP]
        .map(|kind| file(&source, kind))
        .into();
    files.push(jpeg(&source, turbojpeg::Subsamp::Sub2x2));
    files.push(turned(&files[6], 6));
    let limits = Limits {
        pixels: 1 << 20,
        ..Limits::default()
    };
    let attempt = |data: &[u8]| {
        for to in [Format::Jpeg, Format::WebP] {
            let options = Options {
                target: Target::Format(to),
                ..inside(20)
            };
            if let Ok(made) = process(data, &options, &limits, &Cancel::default()) {
                assert!(made.width <= 20 && made.height <= 20);
            }
        }
    };
    for whole in files {
        for end in (0..whole.len()).step_by((whole.len() / 60).max(1)) {
            attempt(&whole[..end]);
            let mut flipped = whole.clone();
            flipped[end] ^= 0xFF;
            attempt(&flipped);
        }
    }
}

#[test]
fn cancelled_and_wrong_wishes() {
    let source = jpeg(&picture(64, 64), turbojpeg::Subsamp::Sub2x2);
    let cancel = Cancel::default();
    cancel.cancel();
    let refused = process(&source, &inside(10), &Limits::default(), &cancel);
    assert_eq!(refused, Err(MediaError::Cancelled));
    let wrong = Options {
        quality: 0,
        ..Options::default()
    };
    assert_eq!(run(&source, &wrong).map_err(|e| e.code()), Err("options"));
    let square = Options {
        fit: Fit::Cover,
        max_width: Some(30),
        max_height: Some(20),
        ..Options::default()
    };
    let made = run(&source, &square).expect("a picture");
    assert_eq!((made.width, made.height), (30, 20));
}

/// Every corner of a picture in four colours, kept alone, whatever the file says of its orientation.
#[test]
fn a_part_is_cut_from_the_picture_as_it_is_seen() {
    let quarters = image::RgbImage::from_fn(80, 48, |x, y| {
        image::Rgb(match (x < 40, y < 24) {
            (true, true) => [250, 0, 0],
            (false, true) => [0, 250, 0],
            (true, false) => [0, 0, 250],
            (false, false) => [250, 250, 0],
        })
    });
    for orientation in 1..=8 {
        let seen = match orientation {
            2 => image::imageops::flip_horizontal(&quarters),
            3 => image::imageops::rotate180(&quarters),
            4 => image::imageops::flip_vertical(&quarters),
            5 => image::imageops::flip_horizontal(&image::imageops::rotate90(&quarters)),
            6 => image::imageops::rotate90(&quarters),
            7 => image::imageops::flip_horizontal(&image::imageops::rotate270(&quarters)),
            8 => image::imageops::rotate270(&quarters),
            _ => quarters.clone(),
        };
        let (width, height) = seen.dimensions();
        for file in [
            turned(&jpeg(&quarters, turbojpeg::Subsamp::Sub2x2), orientation),
            turned(&jpeg(&quarters, turbojpeg::Subsamp::None), orientation),
        ] {
            for (left, top) in [
                (0, 0),
                (width / 2, 0),
                (0, height / 2),
                (width / 2, height / 2),
            ] {
                for format in [Format::Jpeg, Format::Png] {
                    let options = Options {
                        crop: Some(Crop {
                            left: f64::from(left),
                            top: f64::from(top),
                            width: f64::from(width / 2),
                            height: f64::from(height / 2),
                        }),
                        target: Target::Format(format),
                        quality: 95,
                        ..Options::default()
                    };
                    let done = run(&file, &options).expect("a quarter");
                    let expected =
                        image::imageops::crop_imm(&seen, left, top, width / 2, height / 2);
                    let off = difference(&done.data, &expected.to_image());
                    assert!(off < 6.0, "{orientation} {left},{top} {format:?}: {off}");
                }
            }
        }
    }
    let outside = Options {
        crop: Some(Crop {
            left: 41.0,
            top: 0.0,
            width: 40.0,
            height: 48.0,
        }),
        ..Options::default()
    };
    let file = jpeg(&quarters, turbojpeg::Subsamp::Sub2x2);
    assert!(matches!(run(&file, &outside), Err(MediaError::Options(_))));
}
