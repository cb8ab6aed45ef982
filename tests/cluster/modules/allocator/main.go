// Allocator answers what Kubernetes' own allocator of devices would: an oracle for plans (tests/cluster/test_allocator.py).
//
// Each line of the standard input is a question in JSON: the ResourceSlices and DeviceClasses of a cluster, devices that
// are taken, and pods in the order in which the scheduler comes to them. Each line of the standard output is the answer:
// for each pod the devices of each of its claims, or null where it gets none.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/dynamic-resource-allocation/cel"
	"k8s.io/dynamic-resource-allocation/structured"
)

type pod struct {
	Node   string                      `json:"node"`
	Claims []*resourcev1.ResourceClaim `json:"claims"`
}

type question struct {
	Slices  []*resourcev1.ResourceSlice `json:"slices"`
	Classes []*resourcev1.DeviceClass   `json:"classes"`
	Taken   [][3]string                 `json:"taken"` // driver, pool, device
	Pods    []pod                       `json:"pods"`
}

type classes []*resourcev1.DeviceClass

func (all classes) List() ([]*resourcev1.DeviceClass, error) { return all, nil }

func (all classes) Get(name string) (*resourcev1.DeviceClass, error) {
	for _, class := range all {
		if class.Name == name {
			return class, nil
		}
	}
	return nil, fmt.Errorf("there is no DeviceClass %s", name)
}

// What a scheduler of Kubernetes 1.37 has on by itself.
var features = structured.Features{
	AdminAccess:            true,
	ConsumableCapacity:     true,
	DeviceBindingAndStatus: true,
	DeviceTaints:           true,
	PartitionableDevices:   true,
	PrioritizedList:        true,
}

func answer(ctx context.Context, asked question, cache *cel.Cache) ([][][]string, error) {
	taken := sets.New[structured.DeviceID]()
	for _, device := range asked.Taken {
		taken.Insert(structured.MakeDeviceID(device[0], device[1], device[2]))
	}
	// Of a device that several claims may have: who has it, and how much of it they have together.
	shares, consumed := sets.New[structured.SharedDeviceID](), structured.NewConsumedCapacityCollection()
	found := make([][][]string, len(asked.Pods))
	for at, pod := range asked.Pods {
		state := structured.AllocatedState{
			AllocatedDevices:         taken,
			AllocatedSharedDeviceIDs: shares,
			AggregatedCapacity:       consumed,
		}
		allocator, err := structured.NewAllocator(ctx, features, state, classes(asked.Classes), asked.Slices, cache)
		if err != nil {
			return nil, err
		}
		node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: pod.Node}}
		results, err := allocator.Allocate(ctx, node, pod.Claims)
		if err != nil {
			return nil, err
		}
		for _, result := range results {
			names := []string{}
			for _, device := range result.Devices.Results {
				id := structured.MakeDeviceID(device.Driver, device.Pool, device.Device)
				if device.ShareID == nil {
					taken.Insert(id)
				} else {
					shares.Insert(structured.MakeSharedDeviceID(id, device.ShareID))
					consumed.Insert(structured.NewDeviceConsumedCapacity(id, device.ConsumedCapacity))
				}
				names = append(names, device.Device)
			}
			found[at] = append(found[at], names)
		}
	}
	return found, nil
}

func main() {
	cache := cel.NewCache(1000, cel.Features{EnableConsumableCapacity: true})
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(nil, 64<<20)
	for lines.Scan() {
		var asked question
		if err := json.Unmarshal(lines.Bytes(), &asked); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		found, err := answer(context.Background(), asked, cache)
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		_ = json.NewEncoder(os.Stdout).Encode(found)
	}
}
