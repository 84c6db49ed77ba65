//! All protocols through their public functions: golden answers, and what holds for any input.

#[cfg(test)]
mod errors;
#[cfg(test)]
mod experts;
#[cfg(test)]
mod messages;
#[cfg(test)]
mod over_messages;
#[cfg(test)]
mod properties;
#[cfg(test)]
mod responses;
#[cfg(test)]
mod support;
