//! Makes one test per data plane out of a function that takes a plane. Docker's rules come first: they say whether the
//! test is right.

use netpath_tests::{Family, Plane, docker_proxy};

/// For behaviour that both have.
macro_rules! on_every_plane {
    ($($test:ident,)+) => {
        $(mod $test {
            use netpath_tests::Plane;

            use crate::planes::run;

            #[test]
            fn iptables() {
                run(super::$test, Plane::Iptables { proxy: false });
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

/// For what needs Docker Engine.
macro_rules! on_docker {
    ($($test:ident,)+) => {
        $(mod $test {
            use netpath_tests::engine::Release;

            #[test]
            fn docker() {
                crate::docker_mode::run(super::$test, Release::Own);
            }

            #[test]
            fn newest_docker() {
                crate::docker_mode::run(super::$test, Release::Newest);
            }
        })+
    };
}

/// For what needs containerd.
macro_rules! on_containerd {
    ($($test:ident,)+) => {
        $(mod $test {
            use netpath_tests::containerd_daemon::Release;

            #[test]
            fn containerd() {
                crate::containerd::run(super::$test, Release::Own);
            }

            #[test]
            fn newest_containerd() {
                crate::containerd::run(super::$test, Release::Newest);
            }
        })+
    };
}

/// For what only newer Engines have.
macro_rules! on_newest_docker {
    ($($test:ident,)+) => {
        $(mod $test {
            use netpath_tests::engine::Release;

            #[test]
            fn newest_docker() {
                crate::docker_mode::run(super::$test, Release::Newest);
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

/// For behaviour of one address family on every plane, Docker's with and without its user-land proxy.
macro_rules! cells {
    ($module:ident $family:ident: $($test:ident,)+) => {
        mod $module {
            $(mod $test {
                use netpath_tests::{Family, Plane};

                use crate::planes::run_for;

                #[test]
                fn iptables() {
                    run_for(Family::$family, super::super::$test, Plane::Iptables { proxy: false });
                }

                #[test]
                fn iptables_and_proxy() {
                    run_for(Family::$family, super::super::$test, Plane::Iptables { proxy: true });
                }

                #[test]
                fn netpath() {
                    run_for(Family::$family, super::super::$test, Plane::Netpath { shortcuts: true });
                }

                #[test]
                fn netpath_without_shortcuts() {
                    run_for(Family::$family, super::super::$test, Plane::Netpath { shortcuts: false });
                }
            })+
        }
    };
}

/// The same for both families.
macro_rules! cells_of_both_families {
    ($($test:ident,)+) => {
        cells! { ipv4 V4: $($test,)+ }
        cells! { ipv6 V6: $($test,)+ }
    };
}

/// Runs `test` on `plane`, as root.
pub(crate) fn run(test: fn(Plane), plane: Plane) {
    match missing(plane) {
        None => test(plane),
        Some(why) => eprintln!("skipped: {why}"),
    }
}

/// Runs `test` on `plane` and for `family`, as root.
pub(crate) fn run_for(family: Family, test: fn(Plane, Family), plane: Plane) {
    match missing(plane) {
        None => test(plane, family),
        Some(why) => eprintln!("skipped: {why}"),
    }
}

/// What `plane` needs and is not there.
pub(crate) fn missing(plane: Plane) -> Option<String> {
    if !nix::unistd::geteuid().is_root() {
        return Some("network namespaces need root".to_owned());
    }
    if plane == (Plane::Iptables { proxy: true }) { docker_proxy::binary().err() } else { None }
}
