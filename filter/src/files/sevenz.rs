//! 7z, opened by sevenz-rust2.
//!
//! The library believes what an archive says of the size of its own header, which may be packed a thousandfold, so that is
//! read here before (7-Zip's 7zFormat.txt).

use std::io::{self, Cursor, Read};

use sevenz_rust2::{Archive, ArchiveEntry, BlockDecoder, Error, Password};

/// Octets of a header, unpacked: some 3,000 files.
const MAX_HEADER: u64 = 256 * 1024;

/// The first octets of an archive, which say where its header is.
const START: usize = 32;

const HEADER: u8 = 0x01;
const ENCODED_HEADER: u8 = 0x17;
const AES: &[u8] = b"\x06\xf1\x07\x01";

/// Why an archive, or the rest of one, is not seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Closed {
    Encrypted,
    Broken,
    TooLarge,
    /// Packed with a method that is not known here.
    Unknown,
}

/// The archive's own account of its files.
pub(super) fn open(data: &[u8]) -> Result<Archive, Closed> {
    check_header(data)?;
    Archive::read(&mut Cursor::new(data), &Password::empty()).map_err(|cause| closed(&cause))
}

/// Unpacks file after file, until `each` says that it is enough (false).
pub(super) fn unpack(
    archive: &Archive,
    data: &[u8],
    each: &mut dyn FnMut(&ArchiveEntry, &mut dyn Read) -> bool,
) -> Result<(), Closed> {
    for index in 0..archive.blocks.len() {
        let password = Password::empty();
        let mut source = Cursor::new(data);
        let decoder = BlockDecoder::new(1, index, archive, &password, &mut source);
        let mut goes_on = true;
        let result = decoder.for_each_entries(&mut |entry, reader| {
            let mut reader = UntilError { reader, failed: false };
            goes_on = each(entry, &mut reader) && !reader.failed;
            Ok(goes_on)
        });
        result.map_err(|cause| closed(&cause))?;
        if !goes_on {
            break;
        }
    }
    Ok(())
}

/// A reader that is not asked again once it has failed: that of LZMA2 (lzma-rust2 0.23.0), asked after a damaged header, goes round
/// for ever.
struct UntilError<'r> {
    reader: &'r mut dyn Read,
    failed: bool,
}

impl Read for UntilError<'_> {
    fn read(&mut self, some: &mut [u8]) -> io::Result<usize> {
        if self.failed {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let read = self.reader.read(some);
        self.failed = read.is_err();
        read
    }
}

pub(super) fn is_encrypted(archive: &Archive) -> bool {
    archive.blocks.iter().flat_map(|block| &block.coders).any(|coder| coder.encoder_method_id() == AES)
}

fn closed(cause: &Error) -> Closed {
    match cause {
        Error::PasswordRequired | Error::MaybeBadPassword(_) => Closed::Encrypted,
        Error::UnsupportedCompressionMethod(_) | Error::Unsupported(_) | Error::ExternalUnsupported => {
            Closed::Unknown
        }
        Error::MaxMemLimited { .. } => Closed::TooLarge,
        _ => Closed::Broken,
    }
}

/// Whether the header may be unpacked.
fn check_header(data: &[u8]) -> Result<(), Closed> {
    let mut start = Numbers(data.get(12..START).ok_or(Closed::Broken)?);
    let offset = usize::try_from(start.fixed()?).map_err(|_| Closed::Broken)?;
    let size = start.fixed()?;
    if size > MAX_HEADER {
        return Err(Closed::TooLarge);
    }
    let from = START.checked_add(offset).ok_or(Closed::Broken)?;
    let size = usize::try_from(size).map_err(|_| Closed::Broken)?;
    let header = from.checked_add(size).and_then(|to| data.get(from..to)).ok_or(Closed::Broken)?;
    match header.first() {
        Some(&HEADER) => Ok(()),
        Some(&ENCODED_HEADER) => check_encoded(&mut Numbers(&header[1..])),
        // An empty archive has none; anything else the library would go and look for.
        _ => Err(Closed::Broken),
    }
}

/// What a packed header says of how it is packed.
fn check_encoded(header: &mut Numbers<'_>) -> Result<(), Closed> {
    const PACK_INFO: u8 = 0x06;
    const UNPACK_INFO: u8 = 0x07;
    const SIZE: u8 = 0x09;
    const CRC: u8 = 0x0a;
    const FOLDER: u8 = 0x0b;
    const UNPACK_SIZE: u8 = 0x0c;

    header.expect(PACK_INFO)?;
    header.number()?;
    let streams = header.number()?;
    let mut id = header.octet()?;
    if id == SIZE {
        (0..streams.min(MAX_HEADER)).try_for_each(|_| header.number().map(drop))?;
        id = header.octet()?;
    }
    if id == CRC {
        // All defined, as every program writes it.
        header.expect(1)?;
        header.skip(streams.saturating_mul(4))?;
        id = header.octet()?;
    }
    if id != 0 {
        return Err(Closed::Broken);
    }
    header.expect(UNPACK_INFO)?;
    header.expect(FOLDER)?;
    header.expect(1)?;
    header.expect(0)?;
    let (outputs, encrypted) = coders(header)?;
    if encrypted {
        return Err(Closed::Encrypted);
    }
    header.expect(UNPACK_SIZE)?;
    for _ in 0..outputs {
        if header.number()? > MAX_HEADER {
            return Err(Closed::TooLarge);
        }
    }
    Ok(())
}

/// Reads over the one folder of a packed header. How many streams come out of its coders, and whether one deciphers.
fn coders(header: &mut Numbers<'_>) -> Result<(u64, bool), Closed> {
    let count = header.number()?;
    let mut encrypted = false;
    if !(1..=8).contains(&count) {
        return Err(Closed::Broken);
    }
    for _ in 0..count {
        let flags = header.octet()?;
        // More than one stream in or out is for executables, not for headers.
        if flags & 0x10 != 0 {
            return Err(Closed::Broken);
        }
        encrypted |= header.take(u64::from(flags & 0x0f))? == AES;
        if flags & 0x20 != 0 {
            let length = header.number()?;
            header.skip(length)?;
        }
    }
    // How the coders are joined: two numbers for each but the last.
    (0..2 * (count - 1)).try_for_each(|_| header.number().map(drop))?;
    Ok((count, encrypted))
}

/// Reads a header from its beginning.
struct Numbers<'h>(&'h [u8]);

impl<'h> Numbers<'h> {
    fn take(&mut self, count: u64) -> Result<&'h [u8], Closed> {
        let count = usize::try_from(count).map_err(|_| Closed::Broken)?;
        let (taken, rest) = self.0.split_at_checked(count).ok_or(Closed::Broken)?;
        self.0 = rest;
        Ok(taken)
    }

    fn skip(&mut self, count: u64) -> Result<(), Closed> {
        self.take(count).map(drop)
    }

    fn octet(&mut self) -> Result<u8, Closed> {
        self.take(1).map(|octets| octets[0])
    }

    fn expect(&mut self, octet: u8) -> Result<(), Closed> {
        if self.octet()? == octet { Ok(()) } else { Err(Closed::Broken) }
    }

    fn fixed(&mut self) -> Result<u64, Closed> {
        self.take(8)?.try_into().map(u64::from_le_bytes).map_err(|_| Closed::Broken)
    }

    /// The ones at the beginning of the first octet say how many follow it.
    fn number(&mut self) -> Result<u64, Closed> {
        let first = self.octet()?;
        let more = first.leading_ones();
        let mut value = 0;
        for (at, octet) in self.take(more.into())?.iter().enumerate() {
            value |= u64::from(*octet) << (8 * at);
        }
        let high = u64::from(first) & (0x7f_u64 >> more);
        Ok(if more < 8 { value | high << (8 * more) } else { value })
    }
}
