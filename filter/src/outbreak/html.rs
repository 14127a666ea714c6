//! What a reader sees of HTML: no tags, no comments, nothing that is styled away.

/// Elements whose content is not shown.
const HIDDEN: [&str; 5] = ["style", "script", "title", "head", "template"];

/// Elements that nothing is in.
const VOID: [&str; 8] = ["br", "img", "hr", "meta", "link", "input", "col", "wbr"];

/// Elements within each other that are followed; deeper ones are as the last.
const MAX_DEPTH: usize = 200;

/// The text of `html`. Addresses of links stand where they were.
pub(super) fn text(html: &str) -> String {
    let mut text = String::with_capacity(html.len() / 2);
    // Of the open elements, whether they are hidden.
    let mut open: Vec<(String, bool)> = Vec::new();
    let mut rest = html;
    while let Some(at) = rest.find('<') {
        let hidden = open.last().is_some_and(|(_, hidden)| *hidden);
        if !hidden {
            entities(&rest[..at], &mut text);
        }
        let tag = &rest[at..];
        if tag.starts_with("<!--") {
            rest = tag.find("-->").map_or("", |end| &tag[end + 3..]);
            continue;
        }
        let end = tag.find('>').map_or(tag.len(), |end| end + 1);
        rest = &tag[end..];
        element(&tag[1..end].trim_end_matches('>').trim().to_lowercase(), hidden, &mut open, &mut text);
    }
    if !open.last().is_some_and(|(_, hidden)| *hidden) {
        entities(rest, &mut text);
    }
    text
}

/// A tag, without its angle brackets, in small letters.
fn element(tag: &str, hidden: bool, open: &mut Vec<(String, bool)>, text: &mut String) {
    let name: String = tag.trim_start_matches('/').chars().take_while(char::is_ascii_alphanumeric).collect();
    if tag.starts_with('/') {
        if let Some(at) = open.iter().rposition(|(known, _)| *known == name) {
            open.truncate(at);
        }
    } else if !name.is_empty()
        && !tag.ends_with('/')
        && !VOID.contains(&name.as_str())
        && open.len() < MAX_DEPTH
    {
        open.push((name.clone(), hidden || HIDDEN.contains(&name.as_str()) || is_styled_away(tag)));
    }
    if hidden {
        return;
    }
    if let Some(target) = attribute(tag, "href").filter(|target| target.starts_with("http")) {
        text.push(' ');
        text.push_str(target);
    }
    // Emphasis may stand within a word, to break it up.
    if !matches!(name.as_str(), "b" | "i" | "u" | "em" | "strong" | "span" | "font" | "small" | "wbr") {
        text.push(' ');
    }
}

fn attribute<'t>(tag: &'t str, name: &str) -> Option<&'t str> {
    let after = tag[tag.find(name)? + name.len()..].trim_start().strip_prefix('=')?.trim_start();
    let quote = after.chars().next().filter(|letter| matches!(letter, '"' | '\''));
    match quote {
        Some(quote) => after[1..].split(quote).next(),
        None => after.split_whitespace().next(),
    }
}

fn is_styled_away(tag: &str) -> bool {
    let style: String = tag.chars().filter(|letter| !letter.is_whitespace()).collect();
    ["display:none", "visibility:hidden", "font-size:0", "font-size:1px", "max-height:0", "opacity:0;"]
        .iter()
        .any(|hidden| style.contains(hidden))
}

/// Appends `raw` with its character references resolved; of the named ones those that stand in prose.
fn entities(raw: &str, text: &mut String) {
    let mut rest = raw;
    while let Some(at) = rest.find('&') {
        text.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        let end = after.char_indices().take(10).find(|(_, letter)| *letter == ';').map(|(end, _)| end);
        let Some((end, letter)) = end.and_then(|end| Some((end, reference(&after[..end])?))) else {
            text.push('&');
            rest = after;
            continue;
        };
        text.push(letter);
        rest = &after[end + 1..];
    }
    text.push_str(rest);
}

fn reference(name: &str) -> Option<char> {
    if let Some(number) = name.strip_prefix('#') {
        let hex = number.strip_prefix(['x', 'X']);
        return char::from_u32(hex.map_or_else(|| number.parse(), |hex| u32::from_str_radix(hex, 16)).ok()?);
    }
    Some(match name {
        "amp" => '&',
        "lt" => '<',
        "gt" => '>',
        "quot" => '"',
        "apos" | "rsquo" | "lsquo" => '\'',
        "zwnj" | "shy" | "zwj" => '\u{200c}',
        "nbsp" | "ensp" | "emsp" | "thinsp" | "ndash" | "mdash" | "hellip" | "bull" | "middot" | "copy" => {
            ' '
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::text;

    #[test]
    fn what_is_not_shown_is_not_text() {
        for (html, expected) in [
            ("<p>Buy <b>now</b>&amp;save</p>", "Buy now&save"),
            ("<head><title>x</title></head>a<br>b", "a b"),
            ("a<!-- random <p> words -->b", "ab"),
            ("<div style=\"DISPLAY: none\">one<p>two</p></div>three", "three"),
            ("v<span>i</span>ag&#114;&#x61;", "viagra"),
            ("see <a class=x href='http://a.test/x'>this</a>", "see http://a.test/x this"),
            ("1 < 2 and <", "1"),
            ("a & b &nosuch; &", "a & b &nosuch; &"),
        ] {
            let seen = text(html).split_whitespace().collect::<Vec<_>>().join(" ");
            assert_eq!(seen, expected, "{html}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read(html in "(<[a-z/!-]{0,4}|[&#;x0-9a-zé ='\"]{0,5}|>){0,60}") {
            text(&html);
        }
    }
}
