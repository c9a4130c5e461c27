"""For those who start everything with ``ros2 launch``: a robot, as its ``robot_config`` YAML says.

::

    ros2 launch inference/robot.launch.py robot_config:=so101.yaml execution_mode:=distributed

Drivers and controllers are started by the robot's own launch files; this asks the policy and commands them.
"""

from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, ExecuteProcess, OpaqueFunction
from launch.substitutions import LaunchConfiguration

ARGUMENTS = {
    "robot_config": (None, "a robot_config file"),
    "control_mode": ("", "one of its control modes; its default by default"),
    "execution_mode": ("", "monolithic or distributed; as the file says by default"),
    "cloud_local": ("false", "true starts the engine here too: to debug"),
    "command": ("chunkwise", "the program, where it is not in PATH"),
}


def generate_launch_description() -> LaunchDescription:
    """What ``ros2 launch`` asks for."""
    declared = [
        DeclareLaunchArgument(name, description=text, **({} if default is None else {"default_value": default}))
        for name, (default, text) in ARGUMENTS.items()
    ]
    return LaunchDescription([*declared, OpaqueFunction(function=_robot)])


def _robot(context: LaunchContext) -> list[ExecuteProcess]:
    given = {name: str(LaunchConfiguration(name).perform(context)) for name in ARGUMENTS}
    words = [given["command"], "up", given["robot_config"]]
    for name in ("control_mode", "execution_mode"):
        words += [f"--{name.replace('_', '-')}", given[name]] if given[name] else []
    words += ["--cloud-local"] if given["cloud_local"].lower() in ("true", "1") else []
    return [ExecuteProcess(cmd=words, name="chunkwise_robot", output="screen")]
