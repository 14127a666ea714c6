//! The directory of a zip file (PKWARE's APPNOTE.TXT 6.3.10, sections 4.3.7 to 4.3.16).
//!
//! Read here, not by a library, since it is the sender's: what is not in the directory but in the file is looked at too, and
//! no count that the file states is believed.

use std::ops::Range;

/// A file in a zip.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) name: String,
    pub(super) encrypted: bool,
    pub(super) method: Method,
    /// Where its packed octets are; as far as they are there.
    pub(super) packed: Range<usize>,
    /// The zip ends before they do.
    pub(super) cut: bool,
    /// As the directory says.
    pub(super) size: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Method {
    Stored,
    Deflated,
    Other,
}

#[derive(Debug, Default)]
pub(super) struct Directory {
    pub(super) entries: Vec<Entry>,
    /// It contradicts itself, or is not there.
    pub(super) broken: bool,
    /// There are more entries than were asked for.
    pub(super) more: bool,
}

/// Zips one behind the other that are looked at: programs differ about which of them is the one.
const MAX_BEHIND: usize = 8;

const LOCAL: &[u8] = b"PK\x03\x04";
const CENTRAL: &[u8] = b"PK\x01\x02";
const END: &[u8] = b"PK\x05\x06";
const END_64: &[u8] = b"PK\x06\x06";
const LOCATOR_64: &[u8] = b"PK\x06\x07";

/// Fixed octets of a local header, an entry of the directory, and its end.
const LOCAL_SIZE: usize = 30;
const CENTRAL_SIZE: usize = 46;
const END_SIZE: usize = 22;

/// Whether something that begins otherwise ends as a zip: programs open it all the same.
pub(super) fn ends_as_one(data: &[u8]) -> bool {
    end_of_directory(data).is_some()
}

/// At most `limit` entries.
pub(super) fn directory(data: &[u8], limit: usize) -> Directory {
    let mut directory = Directory::default();
    let mut shown = data;
    for _ in 0..MAX_BEHIND {
        let Some(base) = one(data, shown, limit, &mut directory) else { break };
        if base == 0 || directory.more {
            break;
        }
        shown = &data[..base];
        if end_of_directory(shown).is_none() {
            break;
        }
        directory.broken = true;
    }
    if directory.entries.is_empty() && data.starts_with(LOCAL) {
        directory.broken = true;
        walk(data, limit, &mut directory);
    }
    directory
}

/// Reads the directory at the end of `shown`. Where the zip begins in it; none if there is no directory.
fn one(data: &[u8], shown: &[u8], limit: usize, directory: &mut Directory) -> Option<usize> {
    let end = end_of_directory(shown)?;
    let (size, offset, before) = extent(shown, end)?;
    // What was put before a zip moves it, but not what it says of itself.
    let Some(start) = before.checked_sub(size) else {
        directory.broken = true;
        return None;
    };
    let base = start.saturating_sub(offset);
    let mut at = start;
    while shown.get(at..at + 4) == Some(CENTRAL) {
        if directory.entries.len() >= limit {
            directory.more = true;
            return None;
        }
        let Some((entry, next)) = central(data, at, base) else {
            directory.broken = true;
            break;
        };
        directory.entries.push(entry);
        at = next;
    }
    directory.broken |= at != before;
    Some(base)
}

fn end_of_directory(data: &[u8]) -> Option<usize> {
    let from = data.len().saturating_sub(END_SIZE + usize::from(u16::MAX));
    memchr::memmem::rfind(&data[from..], END).map(|at| from + at).filter(|at| at + END_SIZE <= data.len())
}

/// Size and offset of the directory, and where it ends.
fn extent(data: &[u8], end: usize) -> Option<(usize, usize, usize)> {
    let small = (u32_at(data, end + 12)?, u32_at(data, end + 16)?);
    let locator = end.checked_sub(20).filter(|at| data[*at..].starts_with(LOCATOR_64));
    if small.0 != u32::MAX && small.1 != u32::MAX || locator.is_none() {
        return Some((usize::try_from(small.0).ok()?, usize::try_from(small.1).ok()?, end));
    }
    let at = memchr::memmem::rfind(&data[..locator?], END_64)?;
    let size = usize::try_from(u64_at(data, at + 40)?).ok()?;
    Some((size, usize::try_from(u64_at(data, at + 48)?).ok()?, at))
}

fn central(data: &[u8], at: usize, base: usize) -> Option<(Entry, usize)> {
    let flags = u16_at(data, at + 8)?;
    let method = u16_at(data, at + 10)?;
    let lengths = [u16_at(data, at + 28)?, u16_at(data, at + 30)?, u16_at(data, at + 32)?].map(usize::from);
    let name_at = at + CENTRAL_SIZE;
    let name = data.get(name_at..name_at + lengths[0])?;
    let extra = data.get(name_at + lengths[0]..name_at + lengths[0] + lengths[1])?;
    let small = [u32_at(data, at + 24)?, u32_at(data, at + 20)?, u32_at(data, at + 42)?];
    let [size, packed, offset] = large(small, extra);
    let local = usize::try_from(offset).ok().and_then(|offset| offset.checked_add(base));
    let start = local.and_then(|at| data_start(data, at));
    // Without its own header the file cannot be found, but its name is known.
    let range = start.map(|start| clip(start, packed, data.len()));
    let (packed, cut) = range.unwrap_or((0..0, true));
    let name = String::from_utf8_lossy(name).into_owned();
    let entry = Entry { name, encrypted: flags & 1 != 0, method: self::method(method), packed, cut, size };
    Some((entry, name_at + lengths.iter().sum::<usize>()))
}

/// Sizes that do not fit into 32 bits are in the extra field 1, in the same order.
fn large(small: [u32; 3], mut extra: &[u8]) -> [u64; 3] {
    let mut values = small.map(u64::from);
    while let (Some(id), Some(length)) = (u16_at(extra, 0), u16_at(extra, 2)) {
        let Some(field) = extra.get(4..4 + usize::from(length)) else { break };
        if id == 1 {
            let missing = values.iter_mut().zip(small).filter(|(_, small)| *small == u32::MAX);
            for (number, (value, _)) in missing.enumerate() {
                *value = u64_at(field, number * 8).unwrap_or(*value);
            }
            break;
        }
        extra = &extra[4 + usize::from(length)..];
    }
    values
}

fn data_start(data: &[u8], at: usize) -> Option<usize> {
    if data.get(at..at.checked_add(4)?) != Some(LOCAL) {
        return None;
    }
    let lengths = usize::from(u16_at(data, at + 26)?) + usize::from(u16_at(data, at + 28)?);
    Some(at + LOCAL_SIZE + lengths).filter(|start| *start <= data.len())
}

fn clip(start: usize, length: u64, end: usize) -> (Range<usize>, bool) {
    let wanted = usize::try_from(length).ok().and_then(|length| start.checked_add(length));
    match wanted.filter(|wanted| *wanted <= end) {
        Some(wanted) => (start..wanted, false),
        None => (start..end, true),
    }
}

/// From one local header to the next, for a zip without a directory.
fn walk(data: &[u8], limit: usize, directory: &mut Directory) {
    let mut at = 0;
    while let Some(start) = data_start(data, at) {
        if directory.entries.len() >= limit {
            directory.more = true;
            return;
        }
        let flags = u16_at(data, at + 6).unwrap_or_default();
        let name_length = usize::from(u16_at(data, at + 26).unwrap_or_default());
        let name = &data[at + LOCAL_SIZE..(at + LOCAL_SIZE + name_length).min(data.len())];
        let stated = u32_at(data, at + 18).unwrap_or_default();
        let next_header =
            || memchr::memmem::find(&data[start..], LOCAL).map_or(data.len(), |found| start + found);
        // Bit 3: the sizes come behind the file, which is packed up to somewhere before the next.
        let (packed, cut) = if flags & 8 != 0 && stated == 0 {
            (start..next_header(), false)
        } else {
            clip(start, stated.into(), data.len())
        };
        let end = packed.end;
        directory.entries.push(Entry {
            name: String::from_utf8_lossy(name).into_owned(),
            encrypted: flags & 1 != 0,
            method: method(u16_at(data, at + 8).unwrap_or_default()),
            packed,
            cut,
            size: u32_at(data, at + 22).unwrap_or_default().into(),
        });
        let Some(found) = memchr::memmem::find(&data[end..], LOCAL) else { return };
        at = end + found;
    }
}

fn method(number: u16) -> Method {
    match number {
        0 => Method::Stored,
        8 => Method::Deflated,
        _ => Method::Other,
    }
}

fn u16_at(data: &[u8], at: usize) -> Option<u16> {
    data.get(at..at.checked_add(2)?)?.try_into().ok().map(u16::from_le_bytes)
}

fn u32_at(data: &[u8], at: usize) -> Option<u32> {
    data.get(at..at.checked_add(4)?)?.try_into().ok().map(u32::from_le_bytes)
}

fn u64_at(data: &[u8], at: usize) -> Option<u64> {
    data.get(at..at.checked_add(8)?)?.try_into().ok().map(u64::from_le_bytes)
}
