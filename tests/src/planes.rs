//! Makes one test per data plane out of a function that takes a plane. Docker's rules come first: they say whether the
//! test is right.

use netpath_tests::Plane;

/// For behaviour that both have.
macro_rules! on_every_plane {
    ($($test:ident,)+) => {
        $(mod $test {
            use netpath_tests::Plane;

            use crate::planes::run;

            #[test]
            fn iptables() {
                run(super::$test, Plane::Iptables);
            }

            #[test]
            fn netpath() {
                run(super::$test, Plane::Netpath { shortcuts: true });
            }

            #[test]
            fn netpath_without_shortcuts() {
                run(super::$test, Plane::Netpath { shortcuts: false });
            }
        })+
    };
}

/// For what has no two roads.
macro_rules! on_netpath_once {
    ($($test:ident,)+) => {
        $(mod $test {
            use netpath_tests::Plane;

            use crate::planes::run;

            #[test]
            fn netpath() {
                run(super::$test, Plane::Netpath { shortcuts: true });
            }
        })+
    };
}

/// For what Docker's rules cannot do.
macro_rules! on_netpath {
    ($($test:ident,)+) => {
        $(mod $test {
            use netpath_tests::Plane;

            use crate::planes::run;

            #[test]
            fn netpath() {
                run(super::$test, Plane::Netpath { shortcuts: true });
            }

            #[test]
            fn netpath_without_shortcuts() {
                run(super::$test, Plane::Netpath { shortcuts: false });
            }
        })+
    };
}

/// Runs `test` on `plane`, as root.
pub(crate) fn run(test: fn(Plane), plane: Plane) {
    if nix::unistd::geteuid().is_root() {
        test(plane);
    } else {
        eprintln!("skipped: network namespaces need root");
    }
}
