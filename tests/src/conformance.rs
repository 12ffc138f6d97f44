//! Conformance: every requirement on a translator that netpath claims to meet, as a test of its own, run by the same code
//! on Docker's iptables rules and on netpath.
//!
//! What either plane does with the packets stands in the row, and the test fails when it does something else: the table that
//! `cargo xtask conformance` makes of the results (docs/conformance.md) is checked claim by claim. A `Must` that netpath
//! does not meet is a fault that is known; whoever mends it changes the row.

/// Declares rows: for each a test per data plane. A row's function has its name.
///
/// `with` names a function that gives the row's [`testbed::Setup`].
macro_rules! rows {
    (
        $order:literal, $part:literal;
        $($name:ident($families:ident): $id:literal, $level:ident, netfilter $netfilter:ident, netpath $netpath:ident
            $(, with $setup:path)?; $requirement:literal;)+
    ) => {
        /// In the table's order.
        const ROWS: &[&str] = &[$(stringify!($name)),+];

        $(mod $name {
            use netpath_tests::Plane;

            use crate::conformance::record::{Expected, Families, Level, Row};
            #[expect(unused_imports, reason = "rows name their own set-ups")]
            use super::*;

            const ROW: Row = Row {
                order: ($order, super::ROWS),
                part: $part,
                id: $id,
                name: concat!(module_path!()),
                level: Level::$level,
                families: Families::$families,
                netfilter: Expected::$netfilter,
                netpath: Expected::$netpath,
                requirement: $requirement,
                setup: rows!(@setup $($setup)?),
                check: super::$name,
            };

            #[test]
            fn netfilter() {
                ROW.run(Plane::Iptables { proxy: false });
            }

            #[test]
            fn netpath() {
                ROW.run(Plane::Netpath { shortcuts: true });
            }

            #[test]
            fn netpath_without_shortcuts() {
                ROW.run(Plane::Netpath { shortcuts: false });
            }
        })+
    };
    (@setup) => { crate::conformance::testbed::Setup::muted };
    (@setup $setup:path) => { $setup };
}

mod clock;
mod connection;
mod errors;
mod record;
mod testbed;

/// RFC 4787: UDP.
mod rfc4787;

/// RFC 5382: TCP.
mod rfc5382;

/// RFC 5508: ICMP.
mod rfc5508;
