//! HTTP requests to one of the provider's own services: a connection each, and everything bounded.

mod client;
mod token;

pub use client::{Client, Failure, Limits};
pub use http_body_util::Full;
pub use hyper::{Method, Request, Response, StatusCode, Uri, header};
pub use token::{Token, TokenError};

#[cfg(test)]
mod tests;
