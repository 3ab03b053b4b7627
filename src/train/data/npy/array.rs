//! Reads one file in the format of NumPy's arrays
//! (<https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html>): a magic, a version,
//! a Python dictionary of three keys in ASCII, then the elements.
//!
//! The dictionary is parsed here, because the crates that read it bring a grammar of Python with
//! them.

use std::path::Path;

use crate::train::data::error::DataError;
use crate::train::data::files::read_file;

/// The first bytes of a file.
const MAGIC: &[u8; 6] = b"\x93NUMPY";
/// Quotes of a Python string.
const QUOTES: [char; 2] = ['\'', '"'];

/// One array, its elements in C order.
pub(super) struct Array {
    /// The type of the elements as the header writes it; its first character is the byte order.
    pub descr: String,
    /// The letter and the size in bytes of that type.
    pub kind: (char, usize),
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
        let wrong_length = |expected: &str| DataError::wrong_length(path, bytes.len(), expected);
        let Some(rest) = bytes.strip_prefix(MAGIC) else {
            let first = bytes
                .first_chunk()
                .ok_or_else(|| wrong_length("at least the 8 bytes of .npy's magic"))?;
            let hint = if first.starts_with(b"PK") {
                "; this is an archive such as .npz, unpack it first"
            } else {
                ""
            };
            let expected = format!("0x934e554d (NumPy's .npy){hint}");
            return Err(DataError::wrong_magic(path, *first, expected));
        };
        // The length of the header takes two bytes in version 1, four in later ones.
        let divided = match *rest {
            [1, _, a, b, ref rest @ ..] => rest.split_at_checked(u16::from_le_bytes([a, b]).into()),
            [_, _, a, b, c, d, ref rest @ ..] => {
                rest.split_at_checked(u32::from_le_bytes([a, b, c, d]) as usize)
            }
            _ => None,
        };
        let (header, elements) = divided.ok_or_else(|| wrong_length("at least its header"))?;
        let header = str::from_utf8(header).map_err(|_| damaged("its header is not text"))?;
        let (descr, kind) = entry(header, "descr")
            .and_then(element_type)
            .ok_or_else(|| damaged("its header names no simple type"))?;
        let shape = entry(header, "shape")
            .and_then(tuple)
            .ok_or_else(|| damaged("its header has no shape"))?;
        let order = entry(header, "fortran_order").unwrap_or_default();
        let fortran_order = order.starts_with("True");
        if !fortran_order && !order.starts_with("False") {
            return Err(damaged(
                "its header does not say in which order elements are",
            ));
        }
        // In u128, because the dimensions may multiply past 64 bits.
        let before_elements = (bytes.len() - elements.len()) as u128;
        let expected = shape
            .iter()
            .try_fold(kind.1 as u128, |size, &along| {
                size.checked_mul(along as u128)
            })
            .and_then(|size| size.checked_add(before_elements));
        if expected != Some(bytes.len() as u128) {
            let expected = expected.map_or("more than there can be".to_owned(), |e| e.to_string());
            return Err(wrong_length(&format!(
                "{expected} (shape {shape:?} of {descr})"
            )));
        }
        let mut elements = elements.to_vec();
        if fortran_order {
            elements = in_c_order(elements, &shape, kind.1);
        }
        Ok(Self {
            descr: descr.to_owned(),
            kind,
            shape,
            elements,
        })
    }
}

/// The text after `'key':` in a dictionary.
fn entry<'a>(header: &'a str, key: &str) -> Option<&'a str> {
    let (_, rest) = QUOTES
        .iter()
        .find_map(|quote| header.split_once(&format!("{quote}{key}{quote}")))?;
    Some(rest.trim_start().strip_prefix(':')?.trim_start())
}

/// The quoted type at the start of `text`, its letter and its size: `<i8` has i and 8.
fn element_type(text: &str) -> Option<(&str, (char, usize))> {
    let (descr, _) = text.strip_prefix(QUOTES)?.split_once(QUOTES)?;
    let mut letters = descr.chars().skip(1);
    let letter = letters.next()?;
    let size = letters.collect::<String>().parse().ok()?;
    (size > 0).then_some((descr, (letter, size)))
}

/// The numbers of the tuple at the start of `text`; Python 2 wrote them as `10L`.
fn tuple(text: &str) -> Option<Vec<usize>> {
    let (inside, _) = text.strip_prefix('(')?.split_once(')')?;
    inside
        .split(',')
        .map(|number| number.trim().trim_end_matches('L'))
        .filter(|number| !number.is_empty())
        .map(|number| number.parse().ok())
        .collect()
}

/// Reorders elements whose first index varies fastest so that the last does.
fn in_c_order(elements: Vec<u8>, shape: &[usize], size: usize) -> Vec<u8> {
    let [first, _, ..] = *shape else {
        return elements;
    };
    let at = |index| {
        let elements = elements.chunks_exact(size).skip(index).step_by(first);
        in_c_order(elements.flatten().copied().collect(), &shape[1..], size)
    };
    (0..first).flat_map(at).collect()
}
