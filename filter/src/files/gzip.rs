//! gzip (RFC 1952): one file, packed.

use std::io::Read;

use flate2::read::MultiGzDecoder;

/// What is packed, and its name if the header says one.
pub(super) fn open(data: &[u8]) -> (impl Read + '_, Option<String>) {
    let name = flate2::read::GzDecoder::new(data)
        .header()
        .and_then(|header| header.filename().map(|name| String::from_utf8_lossy(name).into_owned()));
    (MultiGzDecoder::new(data), name)
}

/// What a packed file is called when the header does not say.
pub(super) fn inner_name(name: &str) -> String {
    let lower = name.to_ascii_lowercase();
    if let Some(stem) = lower.strip_suffix(".tgz") {
        return format!("{}.tar", &name[..stem.len()]);
    }
    let length = lower.strip_suffix(".gz").map_or(name.len(), str::len);
    name[..length].to_owned()
}
