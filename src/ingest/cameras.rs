//! Who may publish: validated data from the roster, replaced whole at each change.

use crate::base::ids::CameraId;

/// One enrolled camera.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Camera {
    /// Which.
    pub id: CameraId,
    /// Path of its URL, without slashes.
    pub path: String,
    /// User name in Digest.
    pub user: String,
    /// HA1 with MD5, if the camera may use it.
    pub md5: Option<Ha1>,
    /// HA1 with SHA-256, if the camera may use it.
    pub sha256: Option<Ha1>,
}

/// Digest's HA1 = H(user:realm:password), lower-case hex. Whoever has it can log in: never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Ha1(pub String);

impl std::fmt::Debug for Ha1 {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Ha1(…)")
    }
}

/// All enrolled cameras.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cameras(pub Vec<Camera>);

impl Cameras {
    /// The camera of a URL's path (its first segment).
    #[must_use]
    pub fn by_path(&self, path: &str) -> Option<&Camera> {
        self.0.iter().find(|camera| camera.path == path)
    }
}
