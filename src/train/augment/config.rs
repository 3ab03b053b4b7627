//! The random changes that an image goes through, their parameters, and the presets.
//!
//! The parameters are those of SimCLR (Chen et al. 2020, "A Simple Framework for Contrastive
//! Learning of Visual Representations", appendix A; CIFAR-10: appendix B.9). A change whose entry
//! is absent is disabled.

use serde::{Deserialize, Serialize};

use super::error::AugmentError;

/// How a random view of an image is drawn.
///
/// The order is fixed: crop, rotation and flip in one resampling, then colour, then blur.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AugmentConfig {
    /// Random resized crop.
    pub crop: Option<CropConfig>,
    /// Random horizontal flip.
    pub flip: Option<FlipConfig>,
    /// Random rotation.
    pub rotation: Option<RotationConfig>,
    /// Random colour distortion.
    pub colour: Option<ColourConfig>,
    /// Random Gaussian blur.
    pub blur: Option<BlurConfig>,
}

/// A window of random area and shape, scaled back to the full image size.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CropConfig {
    /// Smallest and largest area of the window, as a share of the image; in (0, 1].
    pub scale: [f32; 2],
    /// Smallest and largest width over height of the window, drawn uniformly in its logarithm.
    pub ratio: [f32; 2],
}

/// A left-right mirror image.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FlipConfig {
    /// Its probability.
    pub probability: f32,
}

/// A rotation about the centre of the crop. Outside the image its reflection continues.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RotationConfig {
    /// The angle is uniform in ± this many degrees; 180 gives every orientation.
    pub max_degrees: f32,
}

/// Colour jitter in random order, then conversion to grey.
///
/// On images of one channel only brightness and contrast act.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ColourConfig {
    /// Probability of the four jitters, all together.
    pub probability: f32,
    /// Brightness factor, uniform in [max(0, 1 − b), 1 + b].
    pub brightness: f32,
    /// Contrast factor about the image's mean luminance, likewise.
    pub contrast: f32,
    /// Saturation factor, likewise.
    pub saturation: f32,
    /// Rotation of the hue, uniform in ± this share of the full circle; 0.5 gives every hue.
    pub hue: f32,
    /// Probability that the image becomes grey.
    pub grey_probability: f32,
}

/// A Gaussian blur of random width.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BlurConfig {
    /// Its probability.
    pub probability: f32,
    /// Smallest and largest standard deviation, in pixels.
    pub sigma: [f32; 2],
    /// Width of the kernel as a share of the image height; at least three pixels are used.
    pub kernel: f32,
}

impl CropConfig {
    /// Windows of at least this share of the image, with SimCLR's range of ratios.
    fn of_at_least(share: f32) -> Self {
        Self {
            scale: [share, 1.0],
            ratio: [3.0 / 4.0, 4.0 / 3.0],
        }
    }
}

impl ColourConfig {
    /// SimCLR's colour distortion of strength `s`: brightness, contrast and saturation 0.8 s, hue
    /// 0.2 s, applied to 8 in 10 images; 2 in 10 images become grey.
    pub fn simclr(strength: f32) -> Self {
        Self {
            probability: 0.8,
            brightness: 0.8 * strength,
            contrast: 0.8 * strength,
            saturation: 0.8 * strength,
            hue: 0.2 * strength,
            grey_probability: 0.2,
        }
    }
}

impl AugmentConfig {
    /// SimCLR's augmentation for colour photographs, with colour distortion of strength
    /// `strength` (1 in the paper).
    pub fn simclr(strength: f32) -> Self {
        Self {
            crop: Some(CropConfig::of_at_least(0.08)),
            flip: Some(FlipConfig { probability: 0.5 }),
            rotation: None,
            colour: Some(ColourConfig::simclr(strength)),
            blur: Some(BlurConfig {
                probability: 0.5,
                sigma: [0.1, 2.0],
                kernel: 0.1,
            }),
        }
    }

    /// SimCLR on CIFAR-10: colour distortion of strength ½, no blur.
    pub fn cifar10() -> Self {
        Self {
            blur: None,
            ..Self::simclr(0.5)
        }
    }

    /// For the demo set, whose classes are textures: every orientation, every hue, and windows of
    /// at least a quarter of the image, because a smaller one may hold less than one period.
    pub fn demo() -> Self {
        Self {
            crop: Some(CropConfig::of_at_least(0.25)),
            rotation: Some(RotationConfig { max_degrees: 180.0 }),
            colour: Some(ColourConfig {
                hue: 0.5,
                ..ColourConfig::simclr(0.5)
            }),
            ..Self::cifar10()
        }
    }

    /// For small grey images such as digits: only windows of at least two fifths of the image,
    /// because a mirrored or rotated digit is another digit or none.
    pub fn grey() -> Self {
        Self {
            crop: Some(CropConfig::of_at_least(0.4)),
            ..Self::default()
        }
    }

    /// Checks every parameter of the enabled changes.
    ///
    /// # Errors
    /// [`AugmentError::OutOfRange`] names the first parameter that is outside its range (NaN is
    /// outside every range).
    pub fn validate(&self) -> Result<(), AugmentError> {
        if let Some(crop) = &self.crop {
            within("crop.scale[0]", crop.scale[0], f32::MIN_POSITIVE, 1.0)?;
            within("crop.scale[1]", crop.scale[1], crop.scale[0], 1.0)?;
            within("crop.ratio[0]", crop.ratio[0], 0.01, 100.0)?;
            within("crop.ratio[1]", crop.ratio[1], crop.ratio[0], 100.0)?;
        }
        if let Some(flip) = &self.flip {
            within("flip.probability", flip.probability, 0.0, 1.0)?;
        }
        if let Some(rotation) = &self.rotation {
            within("rotation.max_degrees", rotation.max_degrees, 0.0, 180.0)?;
        }
        if let Some(colour) = &self.colour {
            within("colour.probability", colour.probability, 0.0, 1.0)?;
            within("colour.brightness", colour.brightness, 0.0, 10.0)?;
            within("colour.contrast", colour.contrast, 0.0, 10.0)?;
            within("colour.saturation", colour.saturation, 0.0, 10.0)?;
            within("colour.hue", colour.hue, 0.0, 0.5)?;
            within("colour.grey_probability", colour.grey_probability, 0.0, 1.0)?;
        }
        if let Some(blur) = &self.blur {
            within("blur.probability", blur.probability, 0.0, 1.0)?;
            within("blur.sigma[0]", blur.sigma[0], 0.01, 100.0)?;
            within("blur.sigma[1]", blur.sigma[1], blur.sigma[0], 100.0)?;
            within("blur.kernel", blur.kernel, 0.0, 1.0)?;
        }
        Ok(())
    }
}

fn within(parameter: &'static str, given: f32, least: f32, most: f32) -> Result<(), AugmentError> {
    if (least..=most).contains(&given) {
        Ok(())
    } else {
        Err(AugmentError::OutOfRange {
            parameter,
            given,
            least,
            most,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn presets_are_valid_and_survive_their_written_form() {
        for preset in [
            AugmentConfig::default(),
            AugmentConfig::simclr(1.0),
            AugmentConfig::cifar10(),
            AugmentConfig::demo(),
            AugmentConfig::grey(),
        ] {
            preset.validate().unwrap();
            let text = toml::to_string(&preset).unwrap();
            let read: AugmentConfig = toml::from_str(&text).unwrap();
            assert_eq!(read, preset, "{text}");
        }
    }

    #[test]
    fn an_unknown_parameter_is_refused() {
        let error =
            toml::from_str::<AugmentConfig>("[flip]\nprobability = 0.5\nprob = 1").unwrap_err();
        assert!(error.to_string().contains("prob"), "{error}");
    }

    #[test]
    fn a_parameter_out_of_range_is_named() {
        let mut config = AugmentConfig::simclr(1.0);
        config.rotation = Some(RotationConfig { max_degrees: 10.0 });
        for (group, key, value, parameter) in [
            ("crop", "scale", "[0.0, 1.0]", "crop.scale[0]"),
            ("crop", "scale", "[0.08, 0.01]", "crop.scale[1]"),
            ("crop", "ratio", "[0.75, 0.1]", "crop.ratio[1]"),
            ("flip", "probability", "1.5", "flip.probability"),
            ("rotation", "max_degrees", "-1.0", "rotation.max_degrees"),
            ("colour", "hue", "0.6", "colour.hue"),
            ("colour", "contrast", "nan", "colour.contrast"),
            ("blur", "sigma", "[0.0, 2.0]", "blur.sigma[0]"),
        ] {
            let mut table = toml::Table::try_from(&config).unwrap();
            table[group][key] = value.parse().unwrap();
            let broken: AugmentConfig = table.try_into().unwrap();
            let message = broken.validate().unwrap_err().to_string();
            assert!(message.contains(parameter), "{message}");
        }
    }
}
