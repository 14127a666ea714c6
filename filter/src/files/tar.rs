//! tar (POSIX.1-1988 ustar, with the long names of GNU and of pax), read in memory.

const BLOCK: usize = 512;

/// A file in a tar.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Member<'t> {
    pub(super) name: String,
    /// As much of it as there is.
    pub(super) data: &'t [u8],
    /// The tar ends before it does.
    pub(super) cut: bool,
}

/// Whether `data` begins with the header of a file.
pub(super) fn begins(data: &[u8]) -> bool {
    data.get(..BLOCK).is_some_and(|block| block[0] != 0 && sum_is_right(block))
}

fn sum_is_right(block: &[u8]) -> bool {
    let field = 148..156;
    let sum = |(at, octet): (usize, &u8)| if field.contains(&at) { 32 } else { u64::from(*octet) };
    number(&block[field.clone()]) == Some(block.iter().enumerate().map(sum).sum())
}

/// Octal digits; or, of large files, binary with the first bit set.
fn number(field: &[u8]) -> Option<u64> {
    if field[0] & 0x80 != 0 {
        let first = u64::from(field[0] & 0x7f);
        return field[1..]
            .iter()
            .try_fold(first, |sum, octet| sum.checked_mul(256).map(|sum| sum | u64::from(*octet)));
    }
    let digits: Vec<u8> = field.iter().copied().filter(|octet| !matches!(octet, b' ' | 0)).collect();
    let digits = std::str::from_utf8(&digits).ok().filter(|digits| !digits.is_empty())?;
    u64::from_str_radix(digits, 8).ok()
}

/// The files of a tar, one after the other.
pub(super) struct Members<'t> {
    rest: &'t [u8],
    /// Said by the header before, for the next file.
    long_name: Option<String>,
    /// It did not end as it should.
    pub(super) broken: bool,
}

impl<'t> Members<'t> {
    pub(super) fn new(data: &'t [u8]) -> Self {
        Self { rest: data, long_name: None, broken: false }
    }

    /// The next header and what belongs to it.
    fn entry(&mut self) -> Option<(&'t [u8], &'t [u8], bool)> {
        let block = self.rest.get(..BLOCK);
        let Some(block) = block.filter(|block| block.iter().any(|octet| *octet != 0)) else {
            // Two empty blocks end it; one is met, and none if it was cut between two files.
            self.broken |= block.is_none();
            return None;
        };
        let size = number(&block[124..136]).filter(|_| sum_is_right(block));
        let Some(size) = size.and_then(|size| usize::try_from(size).ok()) else {
            self.broken = true;
            return None;
        };
        let after = &self.rest[BLOCK..];
        let cut = size > after.len();
        let data = &after[..size.min(after.len())];
        self.rest = &after[size.checked_next_multiple_of(BLOCK).unwrap_or(size).min(after.len())..];
        self.broken |= cut;
        Some((block, data, cut))
    }
}

impl<'t> Iterator for Members<'t> {
    type Item = Member<'t>;

    fn next(&mut self) -> Option<Member<'t>> {
        loop {
            let (block, data, cut) = self.entry()?;
            match block[156] {
                b'L' => self.long_name = Some(text(data)),
                b'x' => self.long_name = pax_path(data).or(self.long_name.take()),
                // Settings for all that follow, and where a link goes.
                b'g' | b'K' => {}
                // Links, devices, directories.
                b'1'..=b'6' => self.long_name = None,
                _ => {
                    let name = self.long_name.take().unwrap_or_else(|| short_name(block));
                    return Some(Member { name, data, cut });
                }
            }
        }
    }
}

fn short_name(block: &[u8]) -> String {
    let name = text(&block[..100]);
    let prefix = if block[257..].starts_with(b"ustar\0") { text(&block[345..500]) } else { String::new() };
    if prefix.is_empty() { name } else { format!("{prefix}/{name}") }
}

fn text(field: &[u8]) -> String {
    let end = memchr::memchr(0, field).unwrap_or(field.len()).min(4096);
    String::from_utf8_lossy(&field[..end]).into_owned()
}

/// `path` of a pax header: lines of `length key=value`.
fn pax_path(data: &[u8]) -> Option<String> {
    data.split(|octet| *octet == b'\n').find_map(|line| {
        let key = line.iter().position(|octet| *octet == b' ')?;
        line[key + 1..].strip_prefix(b"path=").map(text)
    })
}
