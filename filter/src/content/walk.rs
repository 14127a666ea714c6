//! The structure of a message (RFC 2046 section 5): which octets are whose.

use bytes::Bytes;

use super::header::{Headers, Parameters};
use super::transfer::{Decoded, Encoding, base64, quoted_printable, uuencoded};
use super::{Content, Found, Limits, Part, Trouble, Watch};

/// Names of one part that are kept.
const MAX_NAMES: usize = 8;

/// Troubles that are kept; a sender can have one in each part.
const MAX_TROUBLES: usize = 100;

pub(super) fn message(message: &Bytes, limits: Limits, watch: &Watch) -> Content {
    let shown = message.slice(..message.len().min(limits.octets));
    let (headers, body) = Headers::split(&shown);
    let mut walk = Walk {
        limits,
        watch,
        seen: 0,
        room: limits.octets,
        content: Content { headers: headers.clone(), ..Content::default() },
    };
    if shown.len() < message.len() {
        walk.trouble(Trouble::TooBig, "");
    }
    walk.entity(&headers, body, &Place::default());
    walk.content
}

struct Walk<'w> {
    limits: Limits,
    watch: &'w Watch,
    /// Parts so far, those that only hold others included.
    seen: usize,
    /// Octets that may still be decoded.
    room: usize,
    content: Content,
}

#[derive(Debug, Clone, Default)]
struct Place {
    path: String,
    depth: usize,
    /// Within a multipart/digest, where a part is a message unless it says otherwise.
    digest: bool,
}

impl Place {
    fn inner(&self, number: usize, digest: bool) -> Self {
        let path = if self.path.is_empty() { number.to_string() } else { format!("{}.{number}", self.path) };
        Self { path, depth: self.depth + 1, digest }
    }

    /// A message of one part has a part 1.
    fn leaf(&self) -> String {
        if self.path.is_empty() { "1".into() } else { self.path.clone() }
    }
}

impl Walk<'_> {
    fn trouble(&mut self, trouble: Trouble, part: &str) {
        let found = Found { trouble, part: part.into() };
        if self.content.troubles.len() < MAX_TROUBLES && !self.content.troubles.contains(&found) {
            self.content.troubles.push(found);
        }
    }

    /// One more part may be looked at.
    fn goes_on(&mut self, place: &Place) -> bool {
        let trouble = if self.watch.is_over() {
            Trouble::OutOfTime
        } else if self.seen >= self.limits.parts {
            Trouble::TooManyParts
        } else if place.depth > self.limits.depth {
            Trouble::TooDeep
        } else {
            self.seen += 1;
            return true;
        };
        self.trouble(trouble, if trouble == Trouble::TooDeep { &place.path } else { "" });
        false
    }

    fn entity(&mut self, headers: &Headers, body: Bytes, place: &Place) {
        if !self.goes_on(place) {
            return;
        }
        self.look_for_contradictions(headers, place);
        let fallback = if place.digest { "message/rfc822" } else { "text/plain" };
        let mut kind = headers.raw("Content-Type").next().map(Parameters::read).unwrap_or_default();
        if !kind.value.contains('/') {
            kind.value = fallback.into();
        }
        if kind.value.starts_with("multipart/") {
            match kind.get("boundary").filter(|boundary| !boundary.is_empty()) {
                Some(boundary) if self.multipart(&body, boundary, &kind, place) => return,
                _ if body.trim_ascii().is_empty() => return,
                // Nobody can say what a reader makes of it.
                _ => self.trouble(Trouble::BrokenEncoding, &place.leaf()),
            }
        }
        let (data, broken) = self.decode(headers, body, place);
        if matches!(kind.value.as_str(), "message/rfc822" | "message/global") {
            let (headers, body) = Headers::split(&data);
            return self.entity(&headers, body, &place.inner(1, false));
        }
        self.leaf(headers, &kind, data, broken, place);
    }

    /// Two fields where one is allowed: readers take the first or the last.
    fn look_for_contradictions(&mut self, headers: &Headers, place: &Place) {
        let differ = |name| {
            let mut fields = headers.raw(name);
            let first = fields.next();
            fields.any(|other| first.is_some_and(|first| !first.eq_ignore_ascii_case(other)))
        };
        if differ("Content-Type") || differ("Content-Transfer-Encoding") {
            self.trouble(Trouble::BrokenEncoding, &place.leaf());
        }
    }

    /// False if its boundary is nowhere.
    fn multipart(&mut self, body: &Bytes, boundary: &str, kind: &Parameters, place: &Place) -> bool {
        let digest = kind.value == "multipart/digest";
        let mut number = 0;
        for part in Parts::new(body, boundary.as_bytes()) {
            number += 1;
            if self.seen >= self.limits.parts || self.watch.is_over() {
                // Says which of the two; the rest is not even counted.
                self.goes_on(place);
                break;
            }
            let (headers, inner) = Headers::split(&part);
            self.entity(&headers, inner, &place.inner(number, digest));
        }
        number > 0
    }

    fn decode(&mut self, headers: &Headers, body: Bytes, place: &Place) -> (Bytes, bool) {
        let name = headers.get("Content-Transfer-Encoding").unwrap_or_default();
        let Some(encoding) = Encoding::named(&name) else {
            return (body, true);
        };
        if encoding == Encoding::Identity {
            return (body, false);
        }
        let encoded = &body[..body.len().min(self.room)];
        if encoded.len() < body.len() {
            self.trouble(Trouble::TooBig, &place.leaf());
        }
        let decoded = match encoding {
            Encoding::Base64 => base64(encoded),
            Encoding::QuotedPrintable => quoted_printable(encoded),
            Encoding::Uuencode | Encoding::Identity => uuencoded(encoded)
                .map_or_else(|| Decoded { octets: encoded.to_vec(), broken: true }, |file| file.decoded),
        };
        self.room = self.room.saturating_sub(decoded.octets.len());
        (decoded.octets.into(), decoded.broken)
    }

    fn leaf(&mut self, headers: &Headers, kind: &Parameters, data: Bytes, broken: bool, place: &Place) {
        let disposition = headers.raw("Content-Disposition").next().map(Parameters::read).unwrap_or_default();
        let mut names: Vec<String> = Vec::new();
        for name in disposition.all("filename").chain(kind.all("name")) {
            if names.len() < MAX_NAMES && !name.is_empty() && !names.iter().any(|known| known == name) {
                names.push(name.to_owned());
            }
        }
        let part = Part {
            path: place.leaf(),
            media: kind.value.clone(),
            names,
            attachment: disposition.value == "attachment",
            charset: kind.get("charset").map(str::to_owned),
            data,
            broken,
        };
        // In text that is read as such, a stray `=` is a slip; everywhere else it is a way to hide.
        if broken && !part.is_body() {
            self.trouble(Trouble::BrokenEncoding, &part.path);
        }
        let within = part.is_text().then(|| (part.data.clone(), part.path.clone()));
        self.content.parts.push(part);
        if let Some((text, path)) = within {
            self.files_in_text(&text, &path, place.depth);
        }
    }

    fn files_in_text(&mut self, text: &[u8], path: &str, depth: usize) {
        let mut rest = text;
        let mut number = 0;
        while let Some(file) = uuencoded(&rest[..rest.len().min(self.room)]) {
            number += 1;
            let place = Place { path: format!("{path}.uu{number}"), depth, digest: false };
            if !self.goes_on(&place) {
                return;
            }
            if file.decoded.broken {
                self.trouble(Trouble::BrokenEncoding, &place.path);
            }
            self.room = self.room.saturating_sub(file.decoded.octets.len());
            self.content.parts.push(Part {
                path: place.path,
                media: "application/octet-stream".into(),
                names: vec![file.name.into_owned()],
                attachment: true,
                charset: None,
                data: file.decoded.octets.into(),
                broken: file.decoded.broken,
            });
            rest = file.rest;
        }
    }
}

/// What stands between the lines of a boundary.
struct Parts<'b> {
    body: &'b Bytes,
    boundary: &'b [u8],
    /// Where the next part begins; none before the first boundary was looked for.
    next: Option<usize>,
    ended: bool,
}

impl<'b> Parts<'b> {
    fn new(body: &'b Bytes, boundary: &'b [u8]) -> Self {
        Self { body, boundary, next: None, ended: false }
    }

    /// The next line of the boundary at or after `from`: where its line begins, where the next one does, whether it is the
    /// last.
    fn delimiter(&self, from: usize) -> Option<(usize, usize, bool)> {
        let mut at = from;
        while at < self.body.len() {
            let rest = &self.body[at..];
            let end = memchr::memchr(b'\n', rest).map_or(rest.len(), |length| length + 1);
            if let Some(after) =
                rest[..end].strip_prefix(b"--").and_then(|rest| rest.strip_prefix(self.boundary))
            {
                match after.trim_ascii_end() {
                    b"" => return Some((at, at + end, false)),
                    b"--" => return Some((at, at + end, true)),
                    _ => {}
                }
            }
            at += end;
        }
        None
    }
}

impl Iterator for Parts<'_> {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        if self.ended {
            return None;
        }
        let start = match self.next {
            Some(start) => start,
            None => {
                let (_, start, last) = self.delimiter(0)?;
                if last {
                    self.ended = true;
                    return None;
                }
                start
            }
        };
        let Some((end, next, last)) = self.delimiter(start) else {
            self.ended = true;
            return Some(self.body.slice(start..));
        };
        self.ended = last;
        self.next = Some(next);
        // The line end before the boundary belongs to the boundary.
        let part = &self.body[start..end];
        let part = part.strip_suffix(b"\n").unwrap_or(part);
        let part = part.strip_suffix(b"\r").unwrap_or(part);
        Some(self.body.slice(start..start + part.len()))
    }
}
