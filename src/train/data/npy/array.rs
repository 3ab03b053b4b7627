//! The format (<https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html>): a magic, a
//! version, a Python dictionary of three keys in ASCII, then the elements. The dictionary is read here,
//! because the crates that read it bring a grammar of Python with them.

use std::path::{Path, PathBuf};

use crate::train::data::{DataError, read_file};

/// What a file begins with.
pub(super) const MAGIC: &[u8; 6] = b"\x93NUMPY";

/// One array, its elements in C order.
pub(super) struct Array {
    pub path: PathBuf,
    /// As the header writes it.
    pub descr: String,
    /// The letter and the bytes of an element's type.
    pub kind: (char, usize),
    pub big_endian: bool,
    pub shape: Vec<usize>,
    pub elements: Vec<u8>,
}

impl Array {
    pub fn read(path: &Path) -> Result<Self, DataError> {
        let bytes = read_file(path)?;
        let damaged = |reason: &str| DataError::Damaged {
            path: path.to_path_buf(),
            reason: reason.to_owned(),
        };
        let wrong_length = |expected: String| DataError::WrongLength {
            path: path.to_path_buf(),
            found: bytes.len() as u64,
            expected,
        };
        if !bytes.starts_with(MAGIC) {
            let Some(first) = bytes.first_chunk::<4>() else {
                return Err(wrong_length(
                    "at least the 8 bytes of .npy's magic".to_owned(),
                ));
            };
            let hint = if first.starts_with(b"PK") {
                "; this is an archive such as .npz, unpack it first"
            } else {
                ""
            };
            return Err(DataError::WrongMagic {
                path: path.to_path_buf(),
                found: u32::from_be_bytes(*first),
                expected: format!("0x934e554d (NumPy's .npy){hint}"),
            });
        }
        // Version 1 has a length of two bytes, later ones of four.
        let length_bytes = if bytes.get(6) == Some(&1) { 2 } else { 4 };
        let header = bytes.get(8..8 + length_bytes).and_then(|length| {
            let mut wide = [0; 8];
            wide[..length_bytes].copy_from_slice(length);
            let start = 8 + length_bytes;
            let end = start.checked_add(u64::from_le_bytes(wide) as usize)?;
            Some((bytes.get(start..end)?, end))
        });
        let Some((header, start)) = header else {
            return Err(wrong_length("at least its header".to_owned()));
        };
        let header = str::from_utf8(header).map_err(|_| damaged("its header is not text"))?;
        let descr = match entry(header, "descr").and_then(quoted) {
            Some(descr) => descr.to_owned(),
            None => return Err(damaged("its header names no simple type")),
        };
        let mut letters = descr.chars();
        let big_endian = letters.next() == Some('>');
        let kind = letters.next().zip(letters.as_str().parse().ok());
        let kind = kind.ok_or_else(|| damaged("its header names no simple type"))?;
        let shape = entry(header, "shape").and_then(tuple);
        let shape = shape.ok_or_else(|| damaged("its header has no shape"))?;
        let fortran_order = match entry(header, "fortran_order") {
            Some(text) if text.starts_with("True") => true,
            Some(text) if text.starts_with("False") => false,
            _ => {
                return Err(damaged(
                    "its header does not say in which order elements are",
                ));
            }
        };
        // In u128, because the dimensions may multiply past 64 bits.
        let count: Option<u128> = shape.iter().try_fold(1u128, |count, &dimension| {
            count.checked_mul(dimension as u128)
        });
        let expected = count
            .and_then(|count| count.checked_mul(kind.1 as u128))
            .and_then(|elements| elements.checked_add(start as u128));
        if expected != Some(bytes.len() as u128) {
            let expected = expected.map_or("more than there can be".to_owned(), |e| e.to_string());
            return Err(wrong_length(format!(
                "{expected} (shape {shape:?} of {descr})"
            )));
        }
        let mut elements = bytes[start..].to_vec();
        if fortran_order {
            elements = in_c_order(&elements, &shape, kind.1);
        }
        Ok(Self {
            path: path.to_path_buf(),
            descr,
            kind,
            big_endian,
            shape,
            elements,
        })
    }

    pub fn wrong_type(self, allowed: &'static str) -> DataError {
        DataError::UnsupportedType {
            path: self.path,
            found: self.descr,
            allowed,
        }
    }

    pub fn wrong_shape(self, allowed: &str) -> DataError {
        DataError::UnsupportedShape {
            path: self.path,
            found: format!("{:?}", self.shape),
            allowed: allowed.to_owned(),
        }
    }
}

/// What follows `'key':` in a dictionary.
fn entry<'a>(header: &'a str, key: &str) -> Option<&'a str> {
    let quotes = ['\'', '"'];
    let (_, rest) = quotes
        .iter()
        .find_map(|quote| header.split_once(&format!("{quote}{key}{quote}")))?;
    Some(rest.trim_start().strip_prefix(':')?.trim_start())
}

/// The string that `text` begins with.
fn quoted(text: &str) -> Option<&str> {
    let quote = text
        .chars()
        .next()
        .filter(|first| matches!(first, '\'' | '"'))?;
    Some(text[1..].split_once(quote)?.0)
}

/// The numbers of the tuple that `text` begins with; Python 2 wrote them as `10L`.
fn tuple(text: &str) -> Option<Vec<usize>> {
    let (inside, _) = text.strip_prefix('(')?.split_once(')')?;
    let numbers = inside
        .split(',')
        .map(str::trim)
        .filter(|number| !number.is_empty());
    numbers
        .map(|number| number.trim_end_matches('L').parse().ok())
        .collect()
}

/// Elements whose first index varies fastest, in the order in which the last does.
fn in_c_order(elements: &[u8], shape: &[usize], size: usize) -> Vec<u8> {
    let mut ordered = Vec::with_capacity(elements.len());
    let mut index = vec![0; shape.len()];
    for _ in 0..elements.len() / size {
        let place = index
            .iter()
            .zip(shape)
            .rev()
            .fold(0, |place, (index, dimension)| place * dimension + index);
        ordered.extend_from_slice(&elements[place * size..(place + 1) * size]);
        for (index, dimension) in index.iter_mut().zip(shape).rev() {
            *index += 1;
            if *index < *dimension {
                break;
            }
            *index = 0;
        }
    }
    ordered
}
