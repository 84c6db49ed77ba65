use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// What limits are set for and counted by.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Subject {
    /// A virtual API key, by its public id.
    Key(Arc<str>),
    /// A team, by its id.
    Team(Arc<str>),
    /// A route, by its name.
    Route(Arc<str>),
    /// An expert, by its id.
    Expert(Arc<str>),
}

impl Subject {
    /// What it is, as shown to people and used as a metric label: `key`, `team`, `route` or `expert`.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Key(_) => "key",
            Self::Team(_) => "team",
            Self::Route(_) => "route",
            Self::Expert(_) => "expert",
        }
    }

    /// Its id among those of its kind.
    pub fn id(&self) -> &str {
        let (Self::Key(id) | Self::Team(id) | Self::Route(id) | Self::Expert(id)) = self;
        id
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} `{}`", self.kind(), self.id())
    }
}
