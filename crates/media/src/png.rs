//! PNG writer: one filter choice by content, one zlib stream by libdeflate.

use crate::MediaError;
use crate::raster::Raster;
use libdeflater::{CompressionLvl, Compressor};

const SIGNATURE: [u8; 8] = [0x89, b'P', b'N', b'G', 0x0D, 0x0A, 0x1A, 0x0A];

pub(crate) fn encode(image: &Raster) -> Result<Vec<u8>, MediaError> {
    let stride = image.width as usize * image.channels;
    let rows: Vec<&[u8]> = image.data.chunks_exact(stride).collect();
    let filtered = if is_drawn(&rows, image.channels) {
        rows.iter()
            .flat_map(|row| std::iter::once(0).chain(row.iter().copied()))
            .collect()
    } else {
        filtered(&rows, image.channels)
    };
    let failed = |reason: String| MediaError::Encode {
        format: "png",
        reason,
    };
    let level = CompressionLvl::new(6).map_err(|e| failed(format!("{e:?}")))?;
    let mut zlib = Compressor::new(level);
    let mut packed = vec![0; zlib.zlib_compress_bound(filtered.len())];
    let len = zlib
        .zlib_compress(&filtered, &mut packed)
        .map_err(|e| failed(e.to_string()))?;
    packed.truncate(len);

    let mut out = Vec::with_capacity(len + 64);
    out.extend_from_slice(&SIGNATURE);
    let colour = match image.channels {
        1 => 0,
        3 => 2,
        _ => 6,
    };
    let mut header = [0; 13];
    header[..4].copy_from_slice(&image.width.to_be_bytes());
    header[4..8].copy_from_slice(&image.height.to_be_bytes());
    header[8] = 8;
    header[9] = colour;
    chunk(&mut out, *b"IHDR", &header)?;
    chunk(&mut out, *b"IDAT", &packed)?;
    chunk(&mut out, *b"IEND", &[])?;
    Ok(out)
}

fn chunk(out: &mut Vec<u8>, kind: [u8; 4], body: &[u8]) -> Result<(), MediaError> {
    let length = u32::try_from(body.len()).map_err(|e| MediaError::Encode {
        format: "png",
        reason: e.to_string(),
    })?;
    out.extend_from_slice(&length.to_be_bytes());
    let from = out.len();
    out.extend_from_slice(&kind);
    out.extend_from_slice(body);
    let sum = crc32fast::hash(&out[from..]);
    out.extend_from_slice(&sum.to_be_bytes());
    Ok(())
}

/// Screenshots and drawings repeat pixels exactly; filters only hide that from deflate.
fn is_drawn(rows: &[&[u8]], channels: usize) -> bool {
    let (mut same, mut all) = (0_usize, 0_usize);
    for row in rows.iter().step_by((rows.len() / 64).max(1)) {
        for (left, right) in row
            .chunks_exact(channels)
            .zip(row.chunks_exact(channels).skip(1))
        {
            same += usize::from(left == right);
            all += 1;
        }
    }
    same * 2 > all
}

/// Per row the filter with the smallest sum of absolute differences.
fn filtered(rows: &[&[u8]], n: usize) -> Vec<u8> {
    let stride = rows.first().map_or(0, |row| row.len());
    let zero = vec![0; stride];
    let mut out = Vec::with_capacity(rows.len() * (stride + 1));
    let mut tries: [Vec<u8>; 5] = std::array::from_fn(|_| vec![0; stride]);
    let mut above: &[u8] = &zero;
    for row in rows {
        tries[0].copy_from_slice(row);
        for i in 0..stride {
            let (a, c) = if i >= n {
                (row[i - n], above[i - n])
            } else {
                (0, 0)
            };
            let b = above[i];
            tries[1][i] = row[i].wrapping_sub(a);
            tries[2][i] = row[i].wrapping_sub(b);
            tries[3][i] = row[i].wrapping_sub(a.midpoint(b));
            tries[4][i] = row[i].wrapping_sub(paeth(a, b, c));
        }
        let cost = |line: &[u8]| {
            line.iter()
                .map(|&v| u64::from(v.cast_signed().unsigned_abs()))
                .sum::<u64>()
        };
        let best = (0_u8..5)
            .min_by_key(|&k| cost(&tries[usize::from(k)]))
            .unwrap_or(0);
        out.push(best);
        out.extend_from_slice(&tries[usize::from(best)]);
        above = row;
    }
    out
}

fn paeth(a: u8, b: u8, c: u8) -> u8 {
    let (ia, ib, ic) = (i16::from(a), i16::from(b), i16::from(c));
    let p = ia + ib - ic;
    let (pa, pb, pc) = ((p - ia).abs(), (p - ib).abs(), (p - ic).abs());
    if pa <= pb && pa <= pc {
        a
    } else if pb <= pc {
        b
    } else {
        c
    }
}
