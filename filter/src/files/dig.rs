//! Goes through the parts of a message, and through the archives in them.

use std::io::Read;
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::class::Class;
use super::kind::{self, Container, HEAD, Kind};
use super::sevenz::Closed;
use super::zip::{Entry, Method};
use super::{Found, Limits, Patterns, RATIO_FLOOR, gzip, sevenz, tar, zip};
use crate::content::{Content, Part, Watch};

/// What is kept; a sender can have thousands of files in an archive.
const MAX_FOUND: usize = 500;

/// Characters of a path that are kept.
const MAX_PATH: usize = 500;

pub(super) fn message(content: &Content, limits: Limits, banned: &Patterns, watch: &Watch) -> Vec<Found> {
    let mut dig = Dig { limits, banned, watch, members: 0, room: limits.unpacked, found: Vec::new() };
    for trouble in content.troubles() {
        let at = At { part: &trouble.part, path: String::new(), depth: 0 };
        dig.found(trouble.trouble.into(), trouble.trouble.name(), &at);
    }
    for part in content.parts() {
        dig.part(part);
    }
    dig.found
}

struct Dig<'d> {
    limits: Limits,
    banned: &'d Patterns,
    watch: &'d Watch,
    /// Files in archives so far.
    members: usize,
    /// Octets that may still be unpacked.
    room: u64,
    found: Vec<Found>,
}

/// Where something is.
#[derive(Debug, Clone)]
struct At<'d> {
    part: &'d str,
    path: String,
    /// Archives around it.
    depth: usize,
}

impl At<'_> {
    fn within(&self, name: &str, depth: usize) -> Self {
        let name: String = name.chars().filter(|letter| !letter.is_control()).collect();
        let mut path = if self.path.is_empty() { name } else { format!("{}/{name}", self.path) };
        if let Some((end, _)) = path.char_indices().nth(MAX_PATH) {
            path.truncate(end);
        }
        Self { part: self.part, path, depth }
    }
}

/// A file in an archive, packed.
struct Packed<'r> {
    name: &'r str,
    reader: &'r mut dyn Read,
    /// Octets, packed; none if only the archive as a whole is.
    packed: Option<u64>,
    /// Octets, as the archive says.
    size: u64,
}

impl Dig<'_> {
    fn found(&mut self, class: Class, kind: &'static str, at: &At<'_>) {
        let found = Found { class, kind, part: at.part.into(), path: at.path.clone() };
        if self.found.len() < MAX_FOUND {
            if !self.found.contains(&found) {
                self.found.push(found);
            }
        } else if !self.found.iter().any(|known| known.class == class) {
            // A class that is not there yet is worth more than one more of another.
            self.found.push(found);
        }
    }

    fn part(&mut self, part: &Part) {
        let name = part.name().unwrap_or_default();
        let at = At { part: &part.path, path: String::new(), depth: 0 }.within(name, 0);
        for name in &part.names {
            self.name(name, &at);
        }
        self.file(&part.data, &part.names, !part.is_body(), &at);
    }

    fn name(&mut self, name: &str, at: &At<'_>) {
        if self.banned.match_name(name) {
            self.found(Class::BannedName, "name", at);
        }
    }

    fn kind(&mut self, kind: Kind, at: &At<'_>) {
        self.found(kind.0, kind.1, at);
    }

    fn file(&mut self, data: &[u8], names: &[String], named: bool, at: &At<'_>) {
        if let Some(kind) = kind::of(data, names, named) {
            self.kind(kind, at);
        }
        let container = kind::container(data).or_else(|| zip::ends_as_one(data).then_some(Container::Zip));
        let Some(container) = container else { return };
        if self.limits.depth == 0 {
            return;
        }
        if at.depth >= self.limits.depth {
            return self.found(Class::ArchiveLimit, "depth", at);
        }
        // Decoders are others' code, and what they are given is made by whoever likes to: a panic there is a broken archive.
        let opened = catch_unwind(AssertUnwindSafe(|| match container {
            Container::Zip => self.zip(data, at),
            Container::Gzip => self.gzip(data, at),
            Container::Tar => self.tar(data, at),
            Container::SevenZ => self.sevenz(data, at),
        }));
        if opened.is_err() {
            self.found(Class::BrokenArchive, "decoder", at);
        }
    }

    /// One more file may be looked at.
    fn goes_on(&mut self, at: &At<'_>) -> bool {
        if self.watch.is_over() {
            self.found(Class::OutOfTime, "time", at);
            return false;
        }
        if self.members >= self.limits.members {
            self.found(Class::ArchiveLimit, "members", at);
            return false;
        }
        if self.room == 0 {
            self.found(Class::ArchiveLimit, "size", at);
            return false;
        }
        self.members += 1;
        true
    }

    fn zip(&mut self, data: &[u8], at: &At<'_>) {
        let directory = zip::directory(data, self.limits.members.saturating_sub(self.members));
        if let Some(kind) = kind::of_zip(directory.entries.iter().map(|entry| entry.name.as_str())) {
            self.kind(kind, at);
        }
        if directory.broken {
            self.found(Class::BrokenArchive, "directory", at);
        }
        for entry in &directory.entries {
            let inner = at.within(&entry.name, at.depth + 1);
            if !self.goes_on(at) {
                return;
            }
            self.zip_entry(data, entry, &inner);
        }
        if directory.more {
            self.found(Class::ArchiveLimit, "members", at);
        }
    }

    fn zip_entry(&mut self, data: &[u8], entry: &Entry, at: &At<'_>) {
        self.name(&entry.name, at);
        if entry.name.ends_with('/') && entry.packed.is_empty() {
            return;
        }
        if entry.encrypted {
            return self.unseen(Class::EncryptedArchive, "zip", &entry.name, at);
        }
        if entry.cut {
            self.found(Class::BrokenArchive, "cut", at);
        }
        let packed = &data[entry.packed.clone()];
        let mut stored = packed;
        let mut deflated = flate2::read::DeflateDecoder::new(packed);
        let reader: &mut dyn Read = match entry.method {
            Method::Stored => &mut stored,
            Method::Deflated => &mut deflated,
            Method::Other => return self.unseen(Class::UnopenedArchive, "method", &entry.name, at),
        };
        let packed = Some(packed.len() as u64);
        self.member(Packed { name: &entry.name, reader, packed, size: entry.size }, at);
    }

    /// A file of which there is only the name.
    fn unseen(&mut self, class: Class, why: &'static str, name: &str, at: &At<'_>) {
        self.found(class, why, at);
        if let Some(kind) = kind::of_name(name) {
            self.kind(kind, at);
        }
    }

    fn gzip(&mut self, data: &[u8], at: &At<'_>) {
        if !self.goes_on(at) {
            return;
        }
        let (mut reader, name) = gzip::open(data);
        let file = at.path.rsplit('/').next().unwrap_or_default();
        let name = name.unwrap_or_else(|| gzip::inner_name(file));
        let mut inner = at.within(&name, at.depth + 1);
        self.name(&name, &inner);
        let packed = Packed { name: &name, reader: &mut reader, packed: Some(data.len() as u64), size: 0 };
        let Some(unpacked) = self.unpack(packed, &inner) else { return };
        // People take a packed tar for one archive.
        if kind::container(&unpacked) == Some(Container::Tar) {
            inner.depth = at.depth;
        }
        self.file(&unpacked, &[name], true, &inner);
    }

    fn tar(&mut self, data: &[u8], at: &At<'_>) {
        let mut members = tar::Members::new(data);
        for member in members.by_ref() {
            if !self.goes_on(at) {
                return;
            }
            let inner = at.within(&member.name, at.depth + 1);
            self.name(&member.name, &inner);
            if member.cut {
                self.found(Class::BrokenArchive, "cut", &inner);
            }
            self.file(member.data, &[member.name], true, &inner);
        }
        if members.broken {
            self.found(Class::BrokenArchive, "tar", at);
        }
    }

    fn sevenz(&mut self, data: &[u8], at: &At<'_>) {
        let archive = match sevenz::open(data) {
            Ok(archive) => archive,
            Err(closed) => return self.closed(closed, at),
        };
        let encrypted = sevenz::is_encrypted(&archive);
        if encrypted {
            self.found(Class::EncryptedArchive, "7z", at);
        }
        for file in archive.files.iter().take(self.limits.members) {
            let inner = at.within(file.name(), at.depth + 1);
            self.name(file.name(), &inner);
            if encrypted && let Some(kind) = kind::of_name(file.name()) {
                self.kind(kind, &inner);
            }
        }
        if encrypted {
            return;
        }
        let result = sevenz::unpack(&archive, data, &mut |file, reader| {
            if !self.goes_on(at) {
                return false;
            }
            let inner = at.within(file.name(), at.depth + 1);
            let packed = Packed { name: file.name(), reader, packed: None, size: file.size() };
            self.member(packed, &inner);
            // The next one is behind what is left of this one.
            self.drain(reader, at)
        });
        if let Err(closed) = result {
            self.closed(closed, at);
        }
    }

    fn closed(&mut self, closed: Closed, at: &At<'_>) {
        match closed {
            Closed::Encrypted => self.found(Class::EncryptedArchive, "7z", at),
            Closed::Broken => self.found(Class::BrokenArchive, "7z", at),
            Closed::TooLarge => self.found(Class::ArchiveLimit, "header", at),
            Closed::Unknown => self.found(Class::UnopenedArchive, "method", at),
        }
    }

    fn member(&mut self, packed: Packed<'_>, at: &At<'_>) {
        let name = packed.name.to_owned();
        if let Some(unpacked) = self.unpack(packed, at) {
            self.file(&unpacked, &[name], true, at);
        }
    }

    /// The beginning of a file; all of it where that matters. None if nothing of it could be had.
    fn unpack(&mut self, file: Packed<'_>, at: &At<'_>) -> Option<Vec<u8>> {
        let Packed { reader, packed, size, .. } = file;
        if let Some(packed) = packed
            && self.is_bomb(size, packed)
        {
            self.found(Class::ArchiveLimit, "ratio", at);
        }
        let mut octets = Vec::new();
        let mut some = vec![0; HEAD];
        loop {
            if self.watch.is_over() {
                self.found(Class::OutOfTime, "time", at);
                break;
            }
            match reader.read(&mut some) {
                Ok(0) => break,
                Ok(count) => octets.extend_from_slice(&some[..count]),
                Err(_) => {
                    self.found(Class::BrokenArchive, "cut", at);
                    break;
                }
            }
            if octets.len() as u64 > self.room {
                self.room = 0;
                self.found(Class::ArchiveLimit, "size", at);
                break;
            }
            if packed.is_some_and(|packed| self.is_bomb(octets.len() as u64, packed)) {
                self.found(Class::ArchiveLimit, "ratio", at);
                break;
            }
            if octets.len() >= HEAD && !kind::needs_all(&octets) {
                break;
            }
        }
        self.room = self.room.saturating_sub(octets.len() as u64);
        if octets.is_empty() && size > 0 {
            if let Some(kind) = kind::of_name(file.name) {
                self.kind(kind, at);
            }
            return None;
        }
        Some(octets)
    }

    fn is_bomb(&self, size: u64, packed: u64) -> bool {
        size > RATIO_FLOOR && size / packed.max(1) > self.limits.ratio
    }

    /// Reads over the rest of a file. False if it is too long.
    fn drain(&mut self, reader: &mut dyn Read, at: &At<'_>) -> bool {
        let mut some = vec![0; HEAD];
        loop {
            if self.watch.is_over() {
                self.found(Class::OutOfTime, "time", at);
                return false;
            }
            match reader.read(&mut some) {
                Ok(0) => return true,
                Ok(count) => self.room = self.room.saturating_sub(count as u64),
                Err(_) => {
                    self.found(Class::BrokenArchive, "cut", at);
                    return false;
                }
            }
            if self.room == 0 {
                self.found(Class::ArchiveLimit, "size", at);
                return false;
            }
        }
    }
}
