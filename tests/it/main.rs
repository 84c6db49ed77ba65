//! Black-box tests: the real gateway between a real client and mock experts.

mod admin;
mod bad_input;
mod chat;
mod churn;
mod lifecycle;
mod openai_client;
mod routing;
mod support;
