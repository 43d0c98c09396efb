//! Positions on Earth (RFC 1876).

use std::fmt;

/// Values of the equator and the prime meridian, and of altitude 0 at the reference spheroid (in
/// centimetres).
const MIDDLE: u32 = 1 << 31;
const SEA_LEVEL: i64 = 10_000_000;

/// Thousandths of an arc second in a degree.
const DEGREE: u32 = 3_600_000;

/// A position.
#[derive(Clone, Copy, Debug)]
pub(super) struct Loc {
    /// Size and precisions in centimetres; each is a digit and a power of ten.
    sizes: [u8; 3],
    latitude: u32,
    longitude: u32,
    altitude: u32,
}

impl Loc {
    /// Reads a position. Returns `None` if the version is not 0, or the position is not on Earth.
    pub(super) fn of(bytes: &[u8; 16]) -> Option<Self> {
        let (words, _) = bytes.as_chunks::<4>();
        let [[0, sizes @ ..], latitude, longitude, altitude] = words else {
            return None;
        };
        let loc = Self {
            sizes: *sizes,
            latitude: u32::from_be_bytes(*latitude),
            longitude: u32::from_be_bytes(*longitude),
            altitude: u32::from_be_bytes(*altitude),
        };
        let is_size = |size: &u8| {
            let (digit, power) = (size >> 4, size & 15);
            digit <= 9 && power <= 9 && (digit != 0 || power == 0)
        };
        let is_place = loc.sizes.iter().all(is_size)
            && loc.latitude.abs_diff(MIDDLE) <= 90 * DEGREE
            && loc.longitude.abs_diff(MIDDLE) <= 180 * DEGREE;
        is_place.then_some(loc)
    }
}

impl fmt::Display for Loc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        angle(self.latitude, ['S', 'N'], f)?;
        angle(self.longitude, ['W', 'E'], f)?;
        let altitude = i64::from(self.altitude) - SEA_LEVEL;
        let sign = if altitude < 0 { "-" } else { "" };
        let altitude = altitude.unsigned_abs();
        write!(f, "{sign}{}.{:02}m", altitude / 100, altitude % 100)?;
        for size in self.sizes {
            let (digit, power) = (u32::from(size >> 4), u32::from(size & 15));
            match power {
                0 => write!(f, " 0.0{digit}m")?,
                1 => write!(f, " 0.{digit}0m")?,
                _ => write!(f, " {}m", digit * 10_u32.pow(power - 2))?,
            }
        }
        Ok(())
    }
}

/// Writes degrees, minutes, seconds with three decimals, and the hemisphere, followed by a space.
fn angle(angle: u32, [below, above]: [char; 2], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let side = if angle < MIDDLE { below } else { above };
    let angle = angle.abs_diff(MIDDLE);
    let (degrees, minutes) = (angle / DEGREE, angle / 60_000 % 60);
    let (seconds, thousandths) = (angle / 1_000 % 60, angle % 1_000);
    write!(f, "{degrees} {minutes} {seconds}.{thousandths:03} {side} ")
}
