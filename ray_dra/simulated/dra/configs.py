"""The opaque configurations that a claim may carry for NVIDIA's driver, decoded as strictly as it does.

An unknown field, kind or version is an error, and so is a setting whose feature gate is off.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from ray_dra.translate.names import COMPUTE_DOMAIN_API
from ray_dra.translate.quantity import quantity


def _quantity(value: str | int | float) -> str | int | float:
    quantity(value)
    return value


_Quantity = Annotated[str | int | float, AfterValidator(_quantity)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class TimeSlicingConfig(_Strict):
    """Without an interval NVIDIA's driver ends; leave out all of it for the default."""

    interval: Literal["Default", "Short", "Medium", "Long"]


class MpsConfig(_Strict):
    """Per-device limits are keyed by UUID or index. 0 percent passes, as with NVIDIA's driver."""

    defaultActiveThreadPercentage: Annotated[int, Field(ge=0, le=100)] | None = None
    defaultPinnedDeviceMemoryLimit: _Quantity | None = None
    defaultPerDevicePinnedMemoryLimit: dict[str, _Quantity] | None = None
    multiUser: bool | None = None


class Sharing(_Strict):
    strategy: Literal["TimeSlicing", "MPS"]
    timeSlicingConfig: TimeSlicingConfig | None = None
    mpsConfig: MpsConfig | None = None

    @model_validator(mode="after")
    def _one(self) -> Sharing:
        if self.strategy == "TimeSlicing" and self.mpsConfig is not None:
            raise ValueError("mpsConfig does not belong to the strategy TimeSlicing")
        if self.strategy == "MPS" and self.timeSlicingConfig is not None:
            raise ValueError("timeSlicingConfig does not belong to the strategy MPS")
        return self


class MigSharing(_Strict):
    """A partition has no time slices of its own to set."""

    strategy: Literal["TimeSlicing", "MPS"]
    mpsConfig: MpsConfig | None = None


class GpuConfig(_Strict):
    sharing: Sharing | None = None


class MigDeviceConfig(_Strict):
    sharing: MigSharing | None = None


class IommuConfig(_Strict):
    backendPolicy: Literal["", "LegacyOnly", "PreferIommuFD"] = "LegacyOnly"
    enableAPIDevice: bool | None = None


class VfioDeviceConfig(_Strict):
    iommu: IommuConfig | None = None


class ComputeDomainChannelConfig(_Strict):
    """Any other mode than All is Single, as with NVIDIA's driver."""

    domainID: Annotated[str, Field(min_length=1)]
    allocationMode: str = "Single"


class ComputeDomainDaemonConfig(_Strict):
    domainID: Annotated[str, Field(min_length=1)]


Config = GpuConfig | MigDeviceConfig | VfioDeviceConfig | ComputeDomainChannelConfig | ComputeDomainDaemonConfig

# Which kind of device each configuration is for.
FOR_KIND: dict[type[Config], str] = {
    GpuConfig: "gpu",
    MigDeviceConfig: "mig",
    VfioDeviceConfig: "vfio",
    ComputeDomainChannelConfig: "channel",
    ComputeDomainDaemonConfig: "daemon",
}
_BY_NAME = {kind.__name__: kind for kind in FOR_KIND}


class BadConfig(ValueError):
    """The configuration cannot be used; the text says why, for the pod's events."""


def decode(parameters: Mapping[str, Any], gates: frozenset[str]) -> Config:
    """The typed configuration. Raises BadConfig."""
    body = dict(parameters)
    version, kind = body.pop("apiVersion", None), body.pop("kind", None)
    if version != COMPUTE_DOMAIN_API or not isinstance(kind, str) or kind not in _BY_NAME:
        raise BadConfig(f'no kind "{kind}" is registered for version "{version}"; known: {", ".join(_BY_NAME)}')
    try:
        config: Config = _BY_NAME[kind].model_validate(body)
    except ValidationError as error:
        raise BadConfig(f"error decoding {kind}: {'; '.join(_problem(e) for e in error.errors())}") from error
    sharing = getattr(config, "sharing", None)
    if sharing is not None:
        gate = "MPSSupport" if sharing.strategy == "MPS" else "TimeSlicingSettings"
        if gate not in gates:
            raise BadConfig(f"{kind} asks for {sharing.strategy}, but the feature gate {gate} is not enabled")
    return config


def _problem(error: Any) -> str:
    place = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        return f'unknown field "{place}"'
    return f"{place}: {error['msg']}" if place else str(error["msg"])
