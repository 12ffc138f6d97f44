//! Parts of README.md and docs that are made by a program: what stands between `<!-- KIND:NAME -->` and `<!-- /KIND -->`.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, bail};

/// `text` with every marked part of `kind` replaced by what `make` says: of its name, and of what stands there.
pub(crate) fn rewritten(text: &str, kind: &str, make: impl Fn(&str, &str) -> Result<String>) -> Result<String> {
    let (open, close) = (format!("<!-- {kind}:"), format!("<!-- /{kind} -->"));
    let (mut new, mut rest) = (String::new(), text);
    while let Some(at) = rest.find(&open) {
        let (before, marked) = rest.split_at(at);
        let Some((mark, inside)) = marked.split_once("-->") else { bail!("a mark `{open}` has no end") };
        let name = mark[open.len()..].trim();
        let Some((old, after)) = inside.split_once(&close) else { bail!("`{open}{name} -->` has no `{close}`") };
        new.push_str(&format!("{before}{open}{name} -->\n{}{close}", make(name, old.trim_start())?));
        rest = after;
    }
    new.push_str(rest);
    Ok(new)
}

/// The file `page` as it is, and with its marked parts made anew.
pub(crate) fn remade(page: &Path, kind: &str, make: impl Fn(&str, &str) -> Result<String>) -> Result<(String, String)> {
    let text = fs::read_to_string(page).with_context(|| format!("read {}", page.display()))?;
    let new = rewritten(&text, kind, make).with_context(|| format!("make {}", page.display()))?;
    Ok((text, new))
}

/// Makes the marked parts of the file `page` anew; whether that has changed it.
pub(crate) fn rewrite(page: &Path, kind: &str, make: impl Fn(&str, &str) -> Result<String>) -> Result<bool> {
    let (old, new) = remade(page, kind, make)?;
    if new != old {
        fs::write(page, &new).with_context(|| format!("write {}", page.display()))?;
    }
    Ok(new != old)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marked_parts_are_replaced_and_the_rest_stays() {
        let page = "a <!-- x:one -->\nold\n<!-- /x --> b <!-- y:one -->kept<!-- /y --> <!-- x:two --><!-- /x -->";
        let new = rewritten(page, "x", |name, old| Ok(format!("{name}, was {old}"))).expect("a page");
        assert_eq!(
            new,
            "a <!-- x:one -->\none, was old\n<!-- /x --> b <!-- y:one -->kept<!-- /y --> <!-- x:two -->\ntwo, was <!-- /x -->"
        );
    }

    #[test]
    fn a_mark_without_an_end_is_an_error() {
        for page in ["<!-- x:one", "<!-- x:one -->"] {
            assert!(rewritten(page, "x", |_, _| Ok(String::new())).is_err(), "{page}");
        }
    }
}
