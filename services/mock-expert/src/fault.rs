//! What can be made to go wrong, and how it is written.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::latency::parse_duration;

/// One way for an answer to go wrong.
///
/// Written as one word with an optional value: `status:503,retry-after=2`, `stall`, `delay:200ms`. The
/// faults that happen in the middle of an answer take effect after about half of it, streamed or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Fault {
    /// `status:503` or `status:429,retry-after=2`: an error answer in OpenAI form.
    Status {
        /// The HTTP status, 400 to 599.
        status: u16,
        /// Seconds for a `retry-after` header.
        retry_after: Option<u32>,
    },
    /// `delay:200ms`: the usual answer, this much later.
    Delay(Duration),
    /// `reset`: the connection is reset before the answer's head.
    Reset,
    /// `reset-head`: the connection is reset in the middle of the answer's head.
    ResetHead,
    /// `reset-mid`: the connection is reset in the middle of the body.
    ResetMid,
    /// `stall`: nothing is ever sent.
    Stall,
    /// `stall-mid`: the body stops in the middle and the connection stays open.
    StallMid,
    /// `half-event`: a stream ends in the middle of an event, the connection is closed; a body that is not
    /// streamed is cut short.
    HalfEvent,
    /// `wrong-content-type`: status 200, but a page of HTML.
    WrongContentType,
    /// `slow-headers:20ms`: the head is sent byte by byte with this gap.
    SlowHeaders(Duration),
    /// `missing-done`: a stream ends in good order but without `[DONE]`.
    MissingDone,
    /// `garbage`: status 200 and the right content type, but the JSON is broken.
    Garbage,
    /// `huge-headers:262144`: the head carries about this many bytes of extra headers.
    HugeHeaders(usize),
    /// `oversize-body:67108864`: the answer's text is this many bytes long.
    OversizeBody(usize),
}

/// Why a fault could not be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?} is not a fault: write status:503[,retry-after=SECONDS], delay:200ms, reset, reset-head, reset-mid, stall, \
     stall-mid, half-event, wrong-content-type, slow-headers[:GAP], missing-done, garbage, huge-headers[:BYTES] or \
     oversize-body[:BYTES]"
)]
pub struct InvalidFault {
    text: String,
}

impl Fault {
    /// The fault's name without its value, as counted in the statistics.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Status { .. } => "status",
            Self::Delay(_) => "delay",
            Self::Reset => "reset",
            Self::ResetHead => "reset-head",
            Self::ResetMid => "reset-mid",
            Self::Stall => "stall",
            Self::StallMid => "stall-mid",
            Self::HalfEvent => "half-event",
            Self::WrongContentType => "wrong-content-type",
            Self::SlowHeaders(_) => "slow-headers",
            Self::MissingDone => "missing-done",
            Self::Garbage => "garbage",
            Self::HugeHeaders(_) => "huge-headers",
            Self::OversizeBody(_) => "oversize-body",
        }
    }
}

impl std::str::FromStr for Fault {
    type Err = InvalidFault;

    fn from_str(text: &str) -> Result<Self, InvalidFault> {
        let invalid = || InvalidFault { text: text.to_owned() };
        let (name, value) = match text.trim().split_once(':') {
            Some((name, value)) => (name, Some(value)),
            None => (text.trim(), None),
        };
        let bytes = |default: usize| value.map_or(Ok(default), |v| v.parse().map_err(|_| invalid()));
        let plain = |fault: Self| if value.is_none() { Ok(fault) } else { Err(invalid()) };
        match name {
            "status" => status(value.ok_or_else(invalid)?).ok_or_else(invalid),
            "delay" => value.and_then(|v| parse_duration(v).ok()).map(Self::Delay).ok_or_else(invalid),
            "reset" => plain(Self::Reset),
            "reset-head" => plain(Self::ResetHead),
            "reset-mid" => plain(Self::ResetMid),
            "stall" => plain(Self::Stall),
            "stall-mid" => plain(Self::StallMid),
            "half-event" => plain(Self::HalfEvent),
            "wrong-content-type" => plain(Self::WrongContentType),
            "slow-headers" => {
                parse_duration(value.unwrap_or("20ms")).map(Self::SlowHeaders).map_err(|_| invalid())
            }
            "missing-done" => plain(Self::MissingDone),
            "garbage" => plain(Self::Garbage),
            "huge-headers" => bytes(256 << 10).map(Self::HugeHeaders),
            "oversize-body" => bytes(64 << 20).map(Self::OversizeBody),
            _ => Err(invalid()),
        }
    }
}

fn status(value: &str) -> Option<Fault> {
    let (code, retry_after) = match value.split_once(',') {
        None => (value, None),
        Some((code, rest)) => (code, Some(rest.trim().strip_prefix("retry-after=")?.parse().ok()?)),
    };
    let status = code.trim().parse().ok().filter(|code| (400..=599).contains(code))?;
    Some(Fault::Status { status, retry_after })
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())?;
        match self {
            Self::Status { status, retry_after: None } => write!(f, ":{status}"),
            Self::Status { status, retry_after: Some(seconds) } => {
                write!(f, ":{status},retry-after={seconds}")
            }
            Self::Delay(time) | Self::SlowHeaders(time) => write!(f, ":{}us", time.as_micros()),
            Self::HugeHeaders(bytes) | Self::OversizeBody(bytes) => write!(f, ":{bytes}"),
            _ => Ok(()),
        }
    }
}

impl TryFrom<String> for Fault {
    type Error = InvalidFault;

    fn try_from(text: String) -> Result<Self, InvalidFault> {
        text.parse()
    }
}

impl From<Fault> for String {
    fn from(fault: Fault) -> Self {
        fault.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fault_survives_being_written_and_read() {
        let texts = [
            "status:503",
            "status:429,retry-after=2",
            "delay:200000us",
            "reset",
            "reset-head",
            "reset-mid",
            "stall",
            "stall-mid",
            "half-event",
            "wrong-content-type",
            "slow-headers:20000us",
            "missing-done",
            "garbage",
            "huge-headers:1024",
            "oversize-body:4096",
        ];
        for text in texts {
            assert_eq!(text.parse::<Fault>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn what_is_not_a_fault_is_refused_with_the_list() {
        for wrong in
            ["", "status", "status:200", "status:503,later=2", "reset:now", "delay", "huge-headers:x"]
        {
            let message = wrong.parse::<Fault>().unwrap_err().to_string();
            assert!(message.contains("half-event"), "{message}");
        }
    }
}
