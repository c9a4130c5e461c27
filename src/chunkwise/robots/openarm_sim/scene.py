"""The OpenArm's MuJoCo models: a bare one for the motion, and one with meshes, belts and posts for pictures.

Both are made from `openarm_bimanual.xml` of the package openarm-mujoco and share one layout of positions,
so a picture can be drawn from the positions that the bare model reached.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import mujoco
import numpy as np
import openarm_mujoco.v2
from numpy.typing import NDArray

from chunkwise.tasks.lanes import GRIP_Z, LANE_CENTRES
from chunkwise.tasks.two_belts import POST_RADIUS, ROD_RADIUS, VISIBLE_POSTS

SIDES: Final = ("right", "left")  # OpenArm's wire order; the model itself has the left arm first
SUBSTEP_S: Final = 0.002
"""Physics step [s]."""

GRIP_POINT: Final = (0.0, 0.0, -0.145)
"""Where the fingers hold the rod, in the frame of the end effector [m]."""
ROD_DROP_M: Final = 0.10
"""The rod's second tracked point lies this far below the grip: at the middle height of the posts."""


def openarm() -> Any:
    """The bimanual OpenArm as a MuJoCo spec, with gravity carried, contacts off and both rods' points.

    Gravity compensation stands for the real drives' own; contact with posts is judged by geometry.
    Sites `{side}_grip` and `{side}_rod` mark two points of each rod's axis, side in (right, left).
    """
    spec = mujoco.MjSpec.from_file(openarm_mujoco.v2.openarm_bimanual_xml())
    spec.option.timestep = SUBSTEP_S
    spec.option.integrator = mujoco.mjtIntegrator.mjINT_IMPLICITFAST
    spec.option.disableflags |= int(mujoco.mjtDisableBit.mjDSBL_CONTACT)
    for body in spec.bodies:
        if body.name.startswith("openarm"):
            body.gravcomp = 1.0
    for side in SIDES:
        hand = spec.body(f"openarm_{side}_ee_base_link")
        x, y, z = GRIP_POINT
        hand.add_site(name=f"{side}_grip", pos=[x, y, z])
        hand.add_site(name=f"{side}_rod", pos=[x - ROD_DROP_M, y, z])
    return spec


def bare_model() -> Any:
    """The arms without a single mesh: the inertias are written in the model, so the motion is the same.

    Loads in 50 ms instead of 700. Position sensors follow the four rod sites, in the order
    right grip, right rod, left grip, left rod.
    """
    spec = openarm()
    for geom in list(spec.geoms):
        spec.delete(geom)
    for mesh in list(spec.meshes):
        spec.delete(mesh)
    for side in SIDES:
        for point in ("grip", "rod"):
            spec.add_sensor(
                name=f"{side}_{point}_position",
                type=mujoco.mjtSensor.mjSENS_FRAMEPOS,
                objtype=mujoco.mjtObj.mjOBJ_SITE,
                objname=f"{side}_{point}",
            )
    return spec.compile()


def actuator_names() -> tuple[str, ...]:
    """The model's names of the 16 position servos, in the order of `JOINT_NAMES`."""
    motors = (*(f"joint{number}" for number in range(1, 8)), "finger1")
    return tuple(f"{side}_{motor}_ctrl" for side in SIDES for motor in motors)


def joint_addresses(model: Any, names: Sequence[str]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Indices of the named joints in the model's positions and velocities, in the order of the names.

    KeyError names a joint that the model lacks.
    """
    joints = [model.joint(name) for name in names]
    return (
        np.array([joint.qposadr[0] for joint in joints], dtype=np.intp),
        np.array([joint.dofadr[0] for joint in joints], dtype=np.intp),
    )


POSTS_SHOWN: Final = VISIBLE_POSTS
"""Bodies per lane that stand for posts."""
STRIPE_PITCH: Final = 0.10
"""Distance of the stripes that show a belt's motion [m]."""
HIDDEN: Final = (0.0, 0.0, -9.0)
"""Where a body waits that is not to be seen [m]."""

FLOOR_Z: Final = -0.698  # the height of the arms on OpenArm's own pedestal
POST_HALF_HEIGHT: Final = 0.05
BELT_X: Final = (-0.02, 1.30)
BELT_HALF_WIDTH: Final = 0.17
BELT_Z: Final = GRIP_Z - ROD_DROP_M - POST_HALF_HEIGHT
ROD_RGBA: Final = (0.95, 0.60, 0.10, 1.0)
POST_RGBA: Final = (0.16, 0.55, 0.62, 1.0)
PASSED_RGBA: Final = (0.36, 0.66, 0.33, 1.0)
HIT_RGBA: Final = (0.88, 0.16, 0.14, 1.0)


def picture_model() -> Any:
    """The arms with their meshes, the rods, the belts with posts, a floor, light and cameras.

    Bodies `post_{side}_{0..7}` and `stripes_{side}` are moved by hand (mocap). Its positions are laid out as
    the bare model's. Anti-aliasing and shadows are off: without a GPU they cost four fifths of the time.
    """
    spec = openarm()
    spec.visual.quality.offsamples = 0
    spec.visual.quality.shadowsize = 0
    spec.visual.global_.offwidth, spec.visual.global_.offheight = 1280, 960
    spec.visual.headlight.ambient = [0.40, 0.40, 0.40]
    spec.visual.headlight.diffuse = [0.55, 0.55, 0.55]
    spec.visual.headlight.specular = [0.0, 0.0, 0.0]
    for geom in list(spec.geoms):
        if geom.group == 3:  # collision shapes
            spec.delete(geom)
    _add_room(spec)
    for side, centre in zip(SIDES, LANE_CENTRES, strict=True):
        _add_rod(spec, side)
        _add_belt(spec, side, centre)
    _add_cameras(spec)
    model = spec.compile()
    lighten(model)
    return model


def _add_room(spec: Any) -> None:
    """Floor, sky, light and the column that carries the arms."""
    spec.add_texture(
        name="sky",
        type=mujoco.mjtTexture.mjTEXTURE_SKYBOX,
        builtin=mujoco.mjtBuiltin.mjBUILTIN_GRADIENT,
        rgb1=[0.93, 0.95, 0.97],
        rgb2=[0.70, 0.76, 0.82],
        width=64,
        height=384,
    )
    spec.add_texture(
        name="tiles",
        type=mujoco.mjtTexture.mjTEXTURE_2D,
        builtin=mujoco.mjtBuiltin.mjBUILTIN_CHECKER,
        rgb1=[0.84, 0.85, 0.86],
        rgb2=[0.79, 0.81, 0.83],
        width=128,
        height=128,
    )
    floor = spec.add_material(name="floor", texrepeat=[4, 4], texuniform=True)
    floor.textures[mujoco.mjtTextureRole.mjTEXROLE_RGB] = "tiles"
    world = spec.worldbody
    ground = [0, 0, FLOOR_Z]
    world.add_geom(name="floor", type=mujoco.mjtGeom.mjGEOM_PLANE, size=[0, 0, 1], pos=ground, material="floor")
    world.add_geom(
        name="column",
        type=mujoco.mjtGeom.mjGEOM_BOX,
        size=[0.045, 0.031, 0.5 * (0.06 - FLOOR_Z)],
        pos=[-0.01, 0, 0.5 * (0.06 + FLOOR_Z)],
        rgba=[0.25, 0.26, 0.28, 1],
    )
    sun = mujoco.mjtLightType.mjLIGHT_DIRECTIONAL
    world.add_light(type=sun, pos=[0, 0, 3], dir=[-0.35, 0.25, -1], diffuse=[0.45, 0.45, 0.45])


def _add_rod(spec: Any, side: str) -> None:
    x, y, z = GRIP_POINT
    spec.body(f"openarm_{side}_ee_base_link").add_geom(
        name=f"rod_{side}",
        type=mujoco.mjtGeom.mjGEOM_CAPSULE,
        fromto=[x + 0.03, y, z, x - ROD_DROP_M - POST_HALF_HEIGHT + 0.01, y, z],
        size=[ROD_RADIUS, 0, 0],
        rgba=ROD_RGBA,
        mass=0,
    )


def _add_belt(spec: Any, side: str, centre: float) -> None:
    """A table with a belt on top, stripes that move with it, and the posts."""
    middle, half_length = 0.5 * (BELT_X[0] + BELT_X[1]), 0.5 * (BELT_X[1] - BELT_X[0])
    world = spec.worldbody
    for name, half_width, bottom, top, rgba in (
        ("table", BELT_HALF_WIDTH + 0.015, FLOOR_Z, BELT_Z - 0.004, [0.55, 0.57, 0.60, 1]),
        ("belt", BELT_HALF_WIDTH, BELT_Z - 0.004, BELT_Z, [0.20, 0.22, 0.25, 1]),
    ):
        world.add_geom(
            name=f"{name}_{side}",
            type=mujoco.mjtGeom.mjGEOM_BOX,
            size=[half_length, half_width, 0.5 * (top - bottom)],
            pos=[middle, centre, 0.5 * (top + bottom)],
            rgba=rgba,
        )
    stripes = world.add_body(name=f"stripes_{side}", mocap=True, pos=[0, centre, BELT_Z])
    # Stripes show for x in BELT_X whatever the phase: their shift is between 0 and one pitch.
    for number in range(int((BELT_X[1] - BELT_X[0]) / STRIPE_PITCH)):
        stripes.add_geom(
            type=mujoco.mjtGeom.mjGEOM_BOX,
            size=[0.006, BELT_HALF_WIDTH, 0.001],
            pos=[BELT_X[0] + 0.006 + number * STRIPE_PITCH, 0, 0],
            rgba=[0.32, 0.34, 0.38, 1],
            contype=0,
            conaffinity=0,
        )
    for number in range(POSTS_SHOWN):
        post = world.add_body(name=f"post_{side}_{number}", mocap=True, pos=HIDDEN)
        post.add_geom(
            name=f"post_{side}_{number}",
            type=mujoco.mjtGeom.mjGEOM_CYLINDER,
            size=[POST_RADIUS, POST_HALF_HEIGHT, 0],
            rgba=POST_RGBA,
        )


def _add_cameras(spec: Any) -> None:
    """Ceiling and head cameras where OpenArm's cell has them above its arms, and an overview for people.

    The wrists' cameras are in the arms' own model.
    """
    for name, position, direction, up, fovy in (
        ("camera_ceiling", (0.06, 0.0, 0.46), (0.0, 0.0, -1.0), (1.0, 0.0, 0.0), 66),
        ("camera_head", (0.038, 0.0315, 0.11), (0.469, 0.0, -0.883), (0.0, 0.0, 1.0), 52),
        ("camera_overview", (1.12, -0.30, 0.50), (-0.88, 0.27, -0.68), (0.0, 0.0, 1.0), 42),
    ):
        spec.worldbody.add_camera(name=name, pos=position, quat=_looking(direction, up), fovy=fovy)


def _looking(direction: Sequence[float], up: Sequence[float]) -> NDArray[np.float64]:
    """Orientation (4,) of a camera that looks along a direction, its image's top towards `up`."""
    back = -np.asarray(direction) / np.linalg.norm(direction)
    right = np.cross(up, back)
    right /= np.linalg.norm(right)
    quaternion = np.zeros(4)
    mujoco.mju_mat2Quat(quaternion, np.column_stack((right, np.cross(back, right), back)).ravel())
    return quaternion


def lighten(model: Any, cell_m: float = 0.004) -> None:
    """Draw every mesh with fewer triangles, in place: corners within one cell of a grid become one.

    Vertex clustering (Rossignac and Borrel 1993). The corners keep their normals, so the shading stays.
    """
    for mesh in range(model.nmesh):
        start, count = model.mesh_vertadr[mesh], model.mesh_vertnum[mesh]
        cells = np.floor(model.mesh_vert[start : start + count] / cell_m).astype(np.int64)
        _, representative, cluster = np.unique(cells, axis=0, return_index=True, return_inverse=True)
        first, faces = model.mesh_faceadr[mesh], model.mesh_facenum[mesh]
        rows = slice(first, first + faces)
        corners = representative[cluster.reshape(-1)][model.mesh_face[rows]]
        a, b, c = corners.T
        kept = np.flatnonzero((a != b) & (b != c) & (c != a))
        model.mesh_face[first : first + len(kept)] = corners[kept]
        for attribute in (model.mesh_facenormal, model.mesh_facetexcoord):
            attribute[first : first + len(kept)] = attribute[rows][kept]
        model.mesh_facenum[mesh] = len(kept)
