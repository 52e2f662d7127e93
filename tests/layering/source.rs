//! Just enough of Rust's lexis for the rules: comments and literals blanked out, test modules cut off, paths found.

/// The text with comments, string and character literals replaced by blanks; line breaks stay where they were.
pub fn code_only(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut i = 0;
    let blank =
        |out: &mut Vec<u8>, part: &[u8]| out.extend(part.iter().map(|b| if *b == b'\n' { b'\n' } else { b' ' }));
    while i < bytes.len() {
        let rest = &bytes[i..];
        let len = if rest.starts_with(b"//") {
            rest.iter().position(|b| *b == b'\n').unwrap_or(rest.len())
        } else if rest.starts_with(b"/*") {
            block_comment(rest)
        } else if let Some(len) = raw_string(rest).filter(|_| i == 0 || !is_word(bytes[i - 1])) {
            len
        } else if rest[0] == b'"' {
            quoted(rest)
        } else if rest[0] == b'\'' {
            character(rest)
        } else {
            out.push(rest[0]);
            i += 1;
            continue;
        };
        blank(&mut out, &rest[..len]);
        i += len;
    }
    String::from_utf8(out).expect("only ASCII was put in, and whole characters were kept")
}

fn is_word(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b == b'_'
}

fn block_comment(rest: &[u8]) -> usize {
    let (mut depth, mut i) = (0, 0);
    while i < rest.len() {
        if rest[i..].starts_with(b"/*") {
            depth += 1;
            i += 2;
        } else if rest[i..].starts_with(b"*/") {
            depth -= 1;
            i += 2;
            if depth == 0 {
                return i;
            }
        } else {
            i += 1;
        }
    }
    rest.len()
}

fn raw_string(rest: &[u8]) -> Option<usize> {
    let start = rest.iter().take(2).position(|b| *b == b'r')?;
    if start == 1 && rest[0] != b'b' {
        return None;
    }
    let hashes = rest[start + 1..].iter().take_while(|b| **b == b'#').count();
    if rest.get(start + 1 + hashes) != Some(&b'"') {
        return None;
    }
    let end: Vec<u8> = std::iter::once(b'"').chain(std::iter::repeat_n(b'#', hashes)).collect();
    let body = start + 2 + hashes;
    let found = rest[body..].windows(end.len()).position(|window| window == end);
    Some(found.map_or(rest.len(), |at| body + at + end.len()))
}

fn quoted(rest: &[u8]) -> usize {
    let mut i = 1;
    while i < rest.len() {
        match rest[i] {
            b'\\' => i += 2,
            b'"' => return i + 1,
            _ => i += 1,
        }
    }
    rest.len()
}

/// A character literal, or one byte for the quote of a lifetime.
fn character(rest: &[u8]) -> usize {
    if rest.get(1) == Some(&b'\\') {
        return rest.iter().skip(3).position(|b| *b == b'\'').map_or(1, |at| at + 4);
    }
    let width = match rest.get(1) {
        Some(b) if *b >= 0xf0 => 4,
        Some(b) if *b >= 0xe0 => 3,
        Some(b) if *b >= 0xc0 => 2,
        _ => 1,
    };
    if rest.get(1 + width) == Some(&b'\'') { width + 2 } else { 1 }
}

/// What is built without `cfg(test)`: everything before the test module, which stands last in a file.
pub fn without_tests(text: &str) -> &str {
    let mut at = 0;
    while let Some(found) = text[at..].find("#[cfg(") {
        let here = at + found;
        let mut after = &text[here..];
        let only_tests = ["#[cfg(test)]", "#[cfg(all(test,"].iter().any(|start| after.starts_with(start));
        while let Some(attribute) = after.strip_prefix("#[") {
            after = attribute.split_once(']').map_or("", |(_, rest)| rest).trim_start();
        }
        if only_tests && ["mod ", "pub mod ", "pub(crate) mod "].iter().any(|start| after.starts_with(start)) {
            return &text[..here];
        }
        at = here + 1;
    }
    text
}

/// A path's first segments, and the line where it stands.
#[derive(Debug, PartialEq, Eq)]
pub struct UsedPath {
    pub line: usize,
    pub segments: Vec<String>,
}

/// All paths of at least two segments in code without comments and literals; `{a, b::c}` groups are spread out.
pub fn paths(code: &str) -> Vec<UsedPath> {
    let tokens = tokens(code);
    let mut found = Vec::new();
    let mut i = 0;
    while i < tokens.len() {
        let starts = is_word(tokens[i].1.as_bytes()[0]) && (i == 0 || tokens[i - 1].1 != "::");
        if starts && tokens.get(i + 1).is_some_and(|next| next.1 == "::") {
            path(&tokens, i, &mut Vec::new(), &mut found);
        } else if starts && i > 0 && tokens[i - 1].1 == "use" {
            // `use rustls;` or `use rustls as tls;`
            found.push(UsedPath { line: tokens[i].0, segments: vec![tokens[i].1.to_owned()] });
        }
        i += 1;
    }
    found
}

fn path(tokens: &[(usize, &str)], mut i: usize, before: &mut Vec<String>, found: &mut Vec<UsedPath>) -> usize {
    let depth = before.len();
    let line = tokens[i].0;
    let mut grouped = false;
    loop {
        match tokens.get(i).map(|token| token.1) {
            Some("{") => {
                grouped = true;
                i += 1;
                while let Some((_, token)) = tokens.get(i) {
                    match *token {
                        "}" => {
                            i += 1;
                            break;
                        }
                        token if is_word(token.as_bytes()[0]) || token == "*" => i = path(tokens, i, before, found),
                        _ => i += 1,
                    }
                }
            }
            Some(token) if is_word(token.as_bytes()[0]) || token == "*" => {
                before.push(token.to_owned());
                i += 1;
            }
            _ => {}
        }
        if tokens.get(i).is_some_and(|token| token.1 == "::") && !grouped {
            i += 1;
        } else {
            break;
        }
    }
    if !grouped {
        found.push(UsedPath { line, segments: before.clone() });
    }
    before.truncate(depth);
    i
}

fn tokens(code: &str) -> Vec<(usize, &str)> {
    let bytes = code.as_bytes();
    let (mut out, mut i, mut line) = (Vec::new(), 0, 1);
    while i < bytes.len() {
        let start = i;
        if bytes[i] == b'\n' {
            line += 1;
            i += 1;
        } else if is_word(bytes[i]) {
            while i < bytes.len() && is_word(bytes[i]) {
                i += 1;
            }
            out.push((line, &code[start..i]));
        } else if bytes[i..].starts_with(b"::") {
            i += 2;
            out.push((line, "::"));
        } else if bytes[i].is_ascii_whitespace() {
            i += 1;
        } else {
            i += 1;
            while !code.is_char_boundary(i) {
                i += 1;
            }
            out.push((line, &code[start..i]));
        }
    }
    out
}
