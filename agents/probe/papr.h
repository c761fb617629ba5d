/* SPDX-License-Identifier: Apache-2.0
 *
 * What PAPR (pseries) leaves to a program when the hypervisor plugs a PCI device: the kernel acts on what comes of CPUs
 * and memory, and hands its word of PCI on.
 */
#ifndef OSBUILDER_PAPR_H
#define OSBUILDER_PAPR_H

/* Does what the hypervisor has said since the last call: takes PCI devices in, or lets go of them. Nothing on other
 * machines. Ends the calling probe when that fails; skip where the kernel leaves more to a program than is done here. */
void papr_pci_events(void);

#endif
