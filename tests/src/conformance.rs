//! Conformance: every requirement on a translator that netpath claims to meet, as a test of its own, run by the same code
//! on Docker's iptables rules and on netpath.
//!
//! What either plane does with the packets stands in the row, and the test fails when it does something else: the table that
//! `cargo xtask conformance` makes of the results (docs/conformance.md) is checked claim by claim. A `Must` that netpath
//! does not meet is a fault that is known; whoever mends it changes the row.

/// Declares rows: for each a test per data plane. A row's function has its name.
///
/// `with` names a function, as a module below would, that gives the [`testbed::Setup`] of a row which needs a world of its own.
/// The others' worlds are alike, so without shortcuts and with XDP, where each row is run once more, all of a part share one.
macro_rules! rows {
    (
        $order:literal, $part:literal;
        $($name:ident($families:ident): $id:literal, $level:ident, netfilter $netfilter:ident, netpath $netpath:ident
            $(, with $setup:path)?; $requirement:literal;)+
    ) => {
        /// In the table's order.
        const ROWS: &[&str] = &[$(stringify!($name)),+];

        #[test]
        fn rows_without_shortcuts() {
            use crate::conformance::record::{Road, run_in_one_world};

            run_in_one_world(&[$($name::ROW),+], Road::WithoutShortcuts);
        }

        #[test]
        fn rows_with_xdp() {
            use crate::conformance::record::{Road, run_in_one_world};

            run_in_one_world(&[$($name::ROW),+], Road::Xdp);
        }

        $(mod $name {
            use crate::conformance::record::{Expected, Families, Level, Road, Row};

            pub(super) const ROW: Row = Row {
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
                ROW.run(Road::Netfilter);
            }

            #[test]
            fn netpath() {
                ROW.run(Road::Netpath);
            }

            rows!(@own $($setup)?);
        })+
    };
    (@setup) => { None };
    (@setup $setup:path) => { Some($setup) };
    (@own) => {};
    (@own $setup:path) => {
        #[test]
        fn netpath_without_shortcuts() {
            ROW.run(Road::WithoutShortcuts);
        }

        #[test]
        fn netpath_with_xdp() {
            ROW.run(Road::Xdp);
        }
    };
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

/// RFC 7857: what later experience adds to the three above.
mod rfc7857;

/// RFC 6888: limits, for many behind one address.
mod rfc6888;

/// RFC 5961: blind attacks on TCP.
mod rfc5961;

/// RFC 1191 and RFC 8201: path MTU.
mod path_mtu;

/// RFC 1812: what any router does.
mod rfc1812;

/// What no translation touches: every other bit, and checksums that say something (RFC 768, RFC 9260).
mod transparency;

/// RFC 8200 and RFC 4443: what is IPv6's own.
mod ipv6;

/// What is malformed is dropped, and what only looks it passes.
mod malformed;

/// Nothing leaves under a container's address.
mod leaks;

/// Ports and addresses that had, or have, another owner.
mod ownership;

/// Sockets on both ends: offloads, and many at once.
mod sockets;
