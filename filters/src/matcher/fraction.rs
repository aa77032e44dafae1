//! `FractionalPercent`: so many of a hundred, ten thousand or a million. There is no runtime that could say otherwise
//! (`RuntimeFractionalPercent`).

use envoy_types::pb::envoy::config::core::v3::RuntimeFractionalPercent;
use envoy_types::pb::envoy::r#type::v3::FractionalPercent;
use envoy_types::pb::envoy::r#type::v3::fractional_percent::DenominatorType;

use crate::xds::coverage::{Table, harmless, honoured, required};
use crate::xds::rejected::Refusal;

/// `numerator` of `denominator`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fraction {
    numerator: u32,
    denominator: u32,
}

pub static RUNTIME_FRACTION: Table = Table {
    name: "envoy.config.core.v3.RuntimeFractionalPercent",
    fields: &[
        honoured(1, "default_value").of(&FRACTION),
        harmless(
            2,
            "runtime_key",
            "there is no runtime that could override the value",
        ),
    ],
    refused: "",
    required: &[required("default_value", &[1])],
};

pub static FRACTION: Table = Table {
    name: "envoy.type.v3.FractionalPercent",
    fields: &[honoured(1, "numerator"), honoured(2, "denominator")],
    refused: "",
    required: &[],
};

impl Fraction {
    pub const ALL: Fraction = Fraction {
        numerator: 1,
        denominator: 1,
    };
    pub const NONE: Fraction = Fraction {
        numerator: 0,
        denominator: 1,
    };

    pub fn from_proto(value: &FractionalPercent) -> Result<Fraction, Refusal> {
        let denominator = match DenominatorType::try_from(value.denominator) {
            Ok(DenominatorType::Hundred) => 100,
            Ok(DenominatorType::TenThousand) => 10_000,
            Ok(DenominatorType::Million) => 1_000_000,
            Err(_) => {
                let reason = format!("unknown value {}", value.denominator);
                return Err(Refusal::new("denominator", reason));
            }
        };
        Ok(Fraction {
            numerator: value.numerator,
            denominator,
        })
    }

    pub fn of_runtime(proto: &RuntimeFractionalPercent) -> Result<Fraction, Refusal> {
        let value = proto.default_value.as_ref();
        let value = value.ok_or_else(|| Refusal::missing("default_value"))?;
        Fraction::from_proto(value).map_err(|e| e.within("default_value"))
    }

    /// Whether something falls into it, by a random number.
    pub fn applies(self, random: u64) -> bool {
        random % u64::from(self.denominator.max(1)) < u64::from(self.numerator)
    }

    /// No more than `numerator` of the same denominator.
    pub fn at_most(self, numerator: u32) -> Fraction {
        Fraction {
            numerator: self.numerator.min(numerator),
            ..self
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn as_many_as_it_says() {
        let fraction = |numerator, denominator| {
            Fraction::from_proto(&FractionalPercent {
                numerator,
                denominator,
            })
        };
        let of_200 = |fraction: Fraction| (0..200).filter(|r| fraction.applies(*r)).count();
        let (hundred, million) = (DenominatorType::Hundred, DenominatorType::Million);
        for (numerator, denominator, expected) in [
            (25, hundred, 50),
            (0, hundred, 0),
            (300, hundred, 200),
            (100, million, 100),
        ] {
            let found = fraction(numerator, denominator as i32).unwrap();
            assert_eq!(of_200(found), expected, "{found:?}");
        }
        assert_eq!(of_200(Fraction::ALL), 200);
        assert_eq!(of_200(Fraction::NONE), 0);
        let some = fraction(40, hundred as i32).unwrap();
        assert_eq!(of_200(some.at_most(10)), 20);
        assert_eq!(of_200(some.at_most(70)), 80);
        let refusal = fraction(1, 7).unwrap_err().to_string();
        assert!(refusal.starts_with("denominator"), "{refusal}");
    }
}
