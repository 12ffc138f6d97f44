//! Versions of the specification: which ones are spoken, and what differs between them.

use serde::Deserialize;
use serde_json::{Value, json};

use crate::error::{CniError, Code};

/// A version that is spoken: an index into [`SUPPORTED`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Version(usize);

const SUPPORTED: [&str; 5] = ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];

impl Version {
    /// The first with CHECK.
    pub(crate) const WITH_CHECK: Self = Self(2);
    /// The first where addresses do not say their family.
    pub(crate) const WITHOUT_FAMILY: Self = Self(3);
    /// The first with GC, STATUS and an interface's MTU.
    pub(crate) const WITH_STATUS: Self = Self(4);
    pub(crate) const LATEST: Self = Self(SUPPORTED.len() - 1);

    pub(crate) fn name(self) -> &'static str {
        SUPPORTED[self.0]
    }

    fn parse(text: &str) -> Option<Self> {
        SUPPORTED.iter().position(|known| *known == text).map(Self)
    }
}

#[derive(Deserialize)]
struct Said {
    /// Version 0.1.0 had no such key.
    #[serde(rename = "cniVersion", default = "first")]
    version: String,
}

fn first() -> String {
    "0.1.0".to_owned()
}

/// The version of a configuration.
pub(crate) fn of(config: &[u8]) -> Result<Version, CniError> {
    let said = said(config)?;
    Version::parse(&said).ok_or_else(|| {
        let supported = SUPPORTED.join(", ");
        CniError::new(Code::IncompatibleVersion, format!("CNI version `{said}` is not one of {supported}"))
    })
}

/// The version for an error about whatever came: that of the configuration if it is spoken, else the latest.
pub(crate) fn in_use(config: &[u8]) -> Version {
    of(config).unwrap_or(Version::LATEST)
}

/// The answer to VERSION.
pub(crate) fn report(config: &[u8]) -> Result<Value, CniError> {
    let said = if config.iter().all(u8::is_ascii_whitespace) { None } else { Some(said(config)?) };
    let version = said.unwrap_or_else(|| Version::LATEST.name().to_owned());
    Ok(json!({ "cniVersion": version, "supportedVersions": SUPPORTED }))
}

fn said(config: &[u8]) -> Result<String, CniError> {
    let said: Said = serde_json::from_slice(config)
        .map_err(|error| CniError::new(Code::Decode, format!("understand the configuration: {error}")))?;
    Ok(said.version)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_known_by_their_exact_names() {
        assert_eq!(of(br#"{"cniVersion": "1.1.0"}"#), Ok(Version::LATEST));
        assert_eq!(of(br#"{"cniVersion": "0.4.0"}"#), Ok(Version::WITH_CHECK));
        assert_eq!(of(br#"{"cniVersion": "1.0.0"}"#), Ok(Version::WITHOUT_FAMILY));
        for config in [&br#"{"cniVersion": "0.2.0"}"#[..], br#"{"cniVersion": "1.1"}"#, br#"{}"#] {
            assert!(of(config).unwrap_err().is(Code::IncompatibleVersion));
        }
        for config in [&b"{"[..], b"", br#"{"cniVersion": 1}"#] {
            assert!(of(config).unwrap_err().is(Code::Decode));
        }
    }

    #[test]
    fn the_report_repeats_the_version_that_was_asked_with() {
        let report = report(br#"{"cniVersion": "9.9.9"}"#).unwrap();
        assert_eq!(report["cniVersion"], "9.9.9");
        assert_eq!(report["supportedVersions"], json!(["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"]));
        assert_eq!(super::report(b"\n").unwrap()["cniVersion"], "1.1.0");
    }
}
