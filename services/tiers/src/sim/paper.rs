//! The experiment that started it: 150 experts behind one router, and every prompt wants another one.
//!
//! "`SambaNova` SN40L: Scaling the AI Memory Wall with Dataflow and Composition of Experts" (arXiv:2405.07518, 2024)
//! gives in its Table V how much faster one SN40L node is than two GPU nodes. Three constants, fitted to the eight
//! overall speed-ups, and the paper's own slowness of each platform reproduce all ten numbers. That is a model of
//! the paper, not a measurement.

/// What one expert copies.
const EXPERT_GB: f64 = 13.5;

/// The router on a batch, and a prompt and a token of an expert, on an SN40L node, in seconds: fitted.
const ROUTER_S: f64 = 0.0659;
const PROMPT_S: f64 = 0.0255;
const TOKEN_S: f64 = 0.001_94;

/// A platform of the paper.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Platform {
    /// One node of eight SN40L sockets.
    Sn40l,
    /// A DGX A100, estimated by the paper.
    A100,
    /// A DGX H100, estimated by the paper.
    H100,
}

impl Platform {
    /// What copying one expert takes, in seconds.
    pub fn switch_s(self) -> f64 {
        EXPERT_GB
            / match self {
                Self::Sn40l => 1000.0,
                Self::A100 => 32.0,
                Self::H100 => 64.0,
            }
    }

    /// How much slower than the SN40L it computes; the paper's rows "expert speedup".
    fn slowness(self, tokens: u32) -> f64 {
        match (self, tokens < 100) {
            (Self::Sn40l, _) => 1.0,
            (Self::A100, true) => 2.0,
            (Self::A100, false) => 3.2,
            (Self::H100, true) => 1.5,
            (Self::H100, false) => 2.3,
        }
    }

    /// What a batch takes, in seconds: the router once, then for each prompt a copy of its expert and its tokens.
    pub fn batch_s(self, prompts: u32, tokens: u32) -> f64 {
        let (prompts, slowness) = (f64::from(prompts), self.slowness(tokens));
        (ROUTER_S + prompts * (PROMPT_S + f64::from(tokens) * TOKEN_S)) * slowness + prompts * self.switch_s()
    }

    /// How many times faster an SN40L node is.
    pub fn behind(self, prompts: u32, tokens: u32) -> f64 {
        self.batch_s(prompts, tokens) / Self::Sn40l.batch_s(prompts, tokens)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reproduces_a_model_of_the_paper() {
        let speed_ups = [
            (Platform::A100, 8, 20, 6.6),
            (Platform::H100, 8, 20, 3.7),
            (Platform::A100, 1, 20, 4.8),
            (Platform::H100, 1, 20, 2.8),
            (Platform::A100, 8, 200, 4.2),
            (Platform::H100, 8, 200, 2.7),
            (Platform::A100, 1, 200, 3.9),
            (Platform::H100, 1, 200, 2.6),
        ];
        for (platform, prompts, tokens, paper) in speed_ups {
            let model = platform.behind(prompts, tokens);
            let off = (model / paper - 1.0).abs();
            assert!(
                off < 0.035,
                "{platform:?}, {prompts} prompts, {tokens} tokens: {model:.2}, paper {paper}"
            );
        }
        // The H100's is 15 in the table, and 16 in the text.
        for (platform, paper) in [(Platform::A100, 31.0), (Platform::H100, 15.0), (Platform::H100, 16.0)] {
            let model = platform.switch_s() / Platform::Sn40l.switch_s();
            assert!((model / paper - 1.0).abs() < 0.045, "{platform:?}: {model:.1}, paper {paper}");
        }
    }
}
