//! Scenarios on the real kernel with real mail servers. Needs root, `make build` and
//! `scripts/install-deps lab`; anything missing is a failure, not a skip.

mod lab;
